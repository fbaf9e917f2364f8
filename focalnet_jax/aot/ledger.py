"""Attributes the estimated cycles of a compiled program to parts of the model and to source files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from focalnet_jax.aot.program import Instruction, Program

# Named scopes of the backbone and of the train step.
CATEGORIES = ("aggregation", "projections", "mlp", "norm", "embedding", "optimizer")
OTHER = "other"
_COLLECTIVE = ("all-", "reduce-sc", "coll")
_HEAD = r"\b(?:neck|\w+_head)\b"  # named scopes of heads
_OWN = "focalnet_jax/"


def category(instruction: Instruction) -> str:
    """Returns the category of an operation from the named scopes; a fusion has the category of its root."""
    if instruction.operation.removesuffix("-start").removesuffix("-done").startswith(_COLLECTIVE):
        return "collectives"
    named = re.search(r'op_name="([^"]*)"', instruction.rest)
    if named is None:
        return OTHER
    if "optimizer" in named[1]:  # the optimizer computes norms too
        return "optimizer"
    found = re.findall(_HEAD, named[1]) or re.findall("|".join(CATEGORIES), named[1])
    return found[-1] if found else OTHER


def cycles_by_part(program: Program, of_kernel: Callable[[str], int]) -> dict[str, int]:
    """Returns the estimated cycles of each part of a program, the largest first; without estimates, an empty dict.

    A part is a category of the backbone or the train step. Operations of a head, and operations without a category, are
    divided by the source file that they come from, such as "decode_head, ops/conv.py" or "ops/resize.py".

    Args:
      program: the compiled program.
      of_kernel: see `Program.cycles`.
    """
    files = _files(program.text)
    parts: Counter[str] = Counter()
    for instruction, cycles in program.estimates(of_kernel):
        name = category(instruction)
        frame = re.search(r"stack_frame_id=(\d+)", instruction.rest)
        file = files.get(frame[1], "") if frame else ""
        if name == OTHER and file:
            name = file
        elif re.fullmatch(_HEAD, name) and file and not file.startswith("model/"):
            name = f"{name}, {file}"
        parts[name] += cycles
    return dict(parts.most_common())


def _files(text: str) -> dict[str, str]:
    """Returns the file of this package that each stack frame of a program is in, or was called from.

    The tables are at the beginning of the program's text. A frame's `parent_frame_id` is the number of the frame that
    called it, plus one.
    """
    names = dict(re.findall(r'^(\d+) "([^"]*)"$', text.partition("FunctionNames")[0], re.MULTILINE))
    located = dict(re.findall(r"^(\d+) \{file_name_id=(\d+)", text, re.MULTILINE))
    frames = re.findall(r"^(\d+) \{file_location_id=(\d+) parent_frame_id=(\d+)\}", text, re.MULTILINE)
    found: dict[str, str] = {}
    for number, location, parent in frames:  # a calling frame comes before the frames that it calls
        file = names.get(located.get(location, ""), "")
        own = file.rpartition(_OWN)[2] if _OWN in file else ""
        found[number] = own or found.get(str(int(parent) - 1), "")
    return found
