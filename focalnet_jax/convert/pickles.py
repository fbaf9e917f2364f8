"""Reads pickles without executing anything in them.

A pickle is a program: its opcodes name functions and classes, and call them. `read_pickle` interprets the opcodes and
builds plain Python values. Names stay strings, and every import, call or restored object becomes an `Inert` record. No
value is ever a function, a class or an instance of a class from the pickle, so nothing can run.
"""

from __future__ import annotations

import _compat_pickle  # pickle's table of Python 2 names, which protocols 0 to 2 use
import pickletools
from dataclasses import dataclass, field
from typing import IO, Any

_VALUES = frozenset(opcode.name for opcode in pickletools.opcodes if opcode.arg is not None) - {
    *("PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET", "PROTO", "FRAME"),
    *("GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "PERSID"),
}
_EMPTY = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Calls to these functions return plain data.
_DICTS = ("collections.OrderedDict",)
_ENCODE = "_codecs.encode"  # how protocol 2 stores bytes
PERSISTENT = "persistent id"
# Modules and functions that run programs or code. They never run here, but a file that calls them is malicious, and the
# user should know.
_ATTACKS = frozenset(
    {"os", "posix", "nt", "sys", "subprocess", "importlib", "runpy", "pty", "shutil", "socket", "ctypes", "webbrowser"}
    | {f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("eval", "exec", "compile", "open")}
    | {
        "builtins.__import__",
        "__builtin__.__import__",
        "io.open",
        "_io.open",
        "pickle.loads",
        "_pickle.loads",
        "marshal.loads",
    }
)


class AttackError(Exception):
    """Raised if a pickle calls a function that runs programs or code. The message is the name of the function."""


@dataclass(frozen=True)
class Name:
    """A function or class that a pickle names. It is never imported."""

    text: str  # such as "torch._utils._rebuild_tensor_v2"


@dataclass(eq=False)
class Inert:
    """Record of an object that a pickle would have created: the callable's name, its arguments and state."""

    name: str  # of the function or class
    args: tuple[Any, ...] = ()
    entries: dict[str, Any] = field(default_factory=dict)  # set with obj[key] = value
    items: list[Any] = field(default_factory=list)  # added with append or extend
    state: Any = None


def read_pickle(file: IO[bytes], referred: list[tuple[Any, ...]] | None = None) -> Any:
    """Reads the pickle at the current position of a file, and advances the position to the end of the pickle.

    In dictionaries, integer keys become strings, and entries with keys of other types are dropped. Sets become lists,
    and frozensets become tuples.

    Args:
      file: the file to read.
      referred: list to which the persistent ids of protocols 1 and higher are appended, also those in dropped entries.

    Returns:
      The value, made of plain Python types, `Name` and `Inert`.

    Raises:
      AttackError: the pickle would run a program or code.
      Exception: the bytes are not a pickle. The exception may have any type.
    """
    machine = _Machine([] if referred is None else referred)
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "STOP":
            return machine.stack.pop()
        machine.step(opcode.name, argument)
    raise ValueError("a pickle without an end")


class _Machine:
    """The stack machine of pickle. `step` handles simple opcodes, and calls the method named by any other opcode."""

    def __init__(self, referred: list[tuple[Any, ...]]) -> None:
        self.stack: list[Any] = []
        self._referred = referred
        self._below: list[list[Any]] = []  # the stacks under each mark
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Interprets one opcode."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name])
        elif name in _TUPLES:
            count = _TUPLES[name]
            self.stack[-count:] = [tuple(self._pop_last(count))]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self._memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[argument] = self.stack[-1]
        elif name not in ("PROTO", "FRAME", "READONLY_BUFFER"):
            getattr(self, f"_{name.lower()}")(argument)

    def _pop_last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("a pickle that pops an empty stack")
        return self.stack[-count:]

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._below.pop()
        return items

    def _mark(self, _: Any) -> None:
        self._below.append(self.stack)
        self.stack = []

    def _pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._since_mark()

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    # Containers

    def _empty_list(self, _: Any) -> None:
        self.stack.append([])

    _empty_set = _empty_list

    def _empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def _list(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append(items)

    def _tuple(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append(tuple(items))

    _frozenset = _tuple

    def _dict(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append({})
        self._set(items)

    def _append(self, _: Any) -> None:
        item = self.stack.pop()
        self._extend([item])

    def _appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    _additems = _appends

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.items.extend(items)
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise ValueError("a pickle that appends to something other than a list")

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _setitems(self, _: Any) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.entries if isinstance(target, Inert) else target
        if not isinstance(entries, dict):
            raise ValueError("a pickle that sets an entry of something other than a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, str):
                entries[key] = value
            elif isinstance(key, int) and abs(key) < 2**63:
                entries[str(key)] = value

    # Opcodes that would import, call or restore objects

    def _global(self, argument: str) -> None:
        self.stack.append(Name(argument.replace(" ", ".", 1)))

    def _stack_global(self, _: Any) -> None:
        module, name = self._pop_last(2)
        self.stack[-2:] = [Name(f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "?")]

    def _ext1(self, argument: int) -> None:
        self.stack.append(Name(f"extension {argument}"))

    _ext2 = _ext4 = _ext1

    def _reduce(self, _: Any) -> None:
        function, args = self._pop_last(2)
        self.stack[-2:] = [_call(function, args)]

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        function, args, _keywords = self._pop_last(3)
        self.stack[-3:] = [_call(function, args)]

    def _inst(self, argument: str) -> None:
        args = tuple(self._since_mark())
        self.stack.append(_call(Name(argument.replace(" ", ".", 1)), args))

    def _obj(self, _: Any) -> None:
        function, *args = self._since_mark()
        self.stack.append(_call(function, tuple(args)))

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state

    def _persid(self, argument: str) -> None:
        self.stack.append(Inert(PERSISTENT, (argument,)))

    def _binpersid(self, _: Any) -> None:
        identity = self.stack.pop()
        identity = identity if isinstance(identity, tuple) else (identity,)
        self._referred.append(identity)
        # For a pickled module, torch stores ("module", class, source file, source code).
        is_class = identity[:1] == ("module",) and len(identity) > 1 and isinstance(identity[1], Name)
        self.stack.append(identity[1] if is_class else Inert(PERSISTENT, identity))

    def _next_buffer(self, _: Any) -> None:
        self.stack.append(Inert("out-of-band buffer"))


def _call(function: Any, args: Any) -> Any:
    """Returns the record of a call, or plain data for the few callables that return only plain data.

    Raises:
      AttackError: the callable runs programs or code.
    """
    name = function.text if isinstance(function, Name) else getattr(function, "name", "?")
    args = args if isinstance(args, tuple) else (args,)
    for spelling in (name, _in_python3(name)):
        if spelling in _ATTACKS or spelling.partition(".")[0] in _ATTACKS:
            raise AttackError(spelling)
    if name in _DICTS:
        pairs = args[0] if args and isinstance(args[0], list) else []
        pairs = [pair for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2]
        return {key: value for key, value in pairs if isinstance(key, str)}
    if name == _ENCODE and len(args) == 2 and isinstance(args[0], str) and args[1] in ("latin1", "latin-1"):
        return args[0].encode("latin-1")
    return Inert(name, args)


def _in_python3(name: str) -> str:
    """Returns the Python 3 name of a Python 2 function, such as `builtins.eval` for `__builtin__.eval`."""
    module, _, attribute = name.partition(".")
    module, attribute = _compat_pickle.NAME_MAPPING.get((module, attribute), (module, attribute))
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{attribute}"
