"""What a compiled program costs, read from its text: the compiler's cycles and the bytes that travel between devices.

XLA writes its own estimate of cycles beside every operation of a TPU program; loops state neither how often they run
nor their sum, so both are worked out here.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([0-9,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|called_computations|branch_computations)=\{?((?:%?[\w.\-]+(?:, )?)+)")
_COUNTERS = ("s32[]", "u32[]", "s64[]", "u64[]")
_CALLING = ("fusion", "call", "conditional", "async-start", "custom-call")


@dataclass(frozen=True)
class Instruction:
    """One line of a program: the name and type of its result, its operation, and the rest of the line."""

    root: bool
    name: str
    type: str
    operation: str
    rest: str

    def operands(self) -> list[str]:
        """Names of what it is given."""
        given = re.sub(r"/\*.*?\*/", "", self.rest.partition(")")[0])
        return [part.split()[-1].lstrip("%") for part in given.split(",") if part.strip()]

    def number(self) -> int | None:
        """A constant's value, where it is a whole number."""
        found = re.match(r"(-?\d+)\)", self.rest) if self.operation == "constant" else None
        return int(found[1]) if found else None

    def called(self) -> list[str]:
        """Names of the computations it runs, loops apart."""
        found = _CALLED.search(self.rest) if self.operation in _CALLING else None
        return [name.strip(" %") for name in found[1].split(",")] if found else []

    def loop(self) -> tuple[str, str] | None:
        """The names of a loop's condition and body."""
        found = re.search(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)", self.rest)
        return (found[1], found[2]) if self.operation == "while" and found else None

    @property
    def own(self) -> bool:
        """Whether it is a kernel of our own."""
        return self.operation == "custom-call" and 'custom_call_target="tpu_custom_call"' in self.rest

    def cycles(self) -> int | None:
        """The compiler's estimate."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(found[1]) if found else None


@dataclass
class Program:
    """The computations of an optimised HLO module by name."""

    text: str = field(repr=False)

    @cached_property
    def computations(self) -> dict[str, list[Instruction]]:
        """The instructions of every computation."""
        found: dict[str, list[Instruction]] = {}
        for line in self.text.splitlines():
            if header := _HEADER.match(line):
                name = header[2]
                found[name] = []
                self.entry = name if header[1] else getattr(self, "entry", name)
            elif instruction := _INSTRUCTION.match(line):
                found[name].append(Instruction(bool(instruction[1]), *instruction.groups()[1:]))
        return found

    def cycles(self, of_kernel: Callable[[str], int]) -> int | None:
        """The sum of the compiler's estimates, loops as often as they run; None where it makes none.

        Of our own kernels it makes none: `of_kernel` tells them by their names, see `bundles`.
        """
        counted = [
            times * estimate
            for instruction, times, fused in self.run()
            # What a fusion holds is part of its own estimate.
            if not fused
            and (estimate := of_kernel(instruction.name) if instruction.own else instruction.cycles()) is not None
        ]
        return sum(counted) if counted else None

    def collective_bytes(self) -> dict[str, int]:
        """Bytes one device sends in a run, by kind of exchange, were each done in a ring."""
        by_channel: dict[tuple[str, str], int] = {}
        for place, (instruction, times, _) in enumerate(self.run()):
            kind = instruction.operation.removesuffix("-start")
            if kind in COLLECTIVES:
                # What is spread over several fusions, to compute meanwhile, stands in each of them by its one channel.
                channel = re.search(r"channel_id=(\d+)", instruction.rest)
                key = kind, channel[1] if channel else f"at {place}"
                sent_once = _sent(instruction, kind, _group(instruction.rest) or self._devices)
                by_channel[key] = max(by_channel.get(key, 0), times * sent_once)
        sent: Counter[str] = Counter()
        for (kind, _), size in by_channel.items():
            sent[kind] += size
        return {kind: sent[kind] for kind in COLLECTIVES if sent[kind]}

    @property
    def _devices(self) -> int:
        return int(found[1]) if (found := re.search(r"num_partitions=(\d+)", self.text)) else 1

    def run(self) -> Iterator[tuple[Instruction, int, bool]]:
        """Every instruction, how often it runs, and whether it is part of a fusion."""
        computations = self.computations
        waiting = [(self.entry, 1, False)]
        while waiting:
            name, times, fused = waiting.pop()
            for instruction in computations.get(name, ()):
                yield instruction, times, fused
                if loop := instruction.loop():
                    turns = self._turns(instruction, *loop)
                    waiting += [(loop[1], times * turns, fused)]
                inside = fused or instruction.operation == "fusion"
                waiting += [(called, times, inside) for called in instruction.called()]

    def _turns(self, loop: Instruction, condition: str, body: str) -> int:
        """How often a loop runs; 1 for one that ends by what it computes, such as drawing until a number is accepted.

        It is what is said of it, or follows from its counter, which starts at 0: what that is compared with, and by
        how much a turn of the loop raises it.
        """
        if said := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest):
            return int(said[1])
        lines = self.computations.get(condition, [])
        limits = [number for line in lines if line.type[:5] in _COUNTERS and (number := line.number()) is not None]
        counts = any("direction=LT" in line.rest or line.operation == "fusion" for line in lines)
        if not limits or not counts:
            return 1
        places = {
            int(found[1])
            for line in lines
            if line.operation == "get-tuple-element" and (found := re.search(r"index=(\d+)", line.rest))
        }
        return -(-max(limits) // max((self._raised(body, place) for place in places), default=1))

    def _raised(self, body: str, place: int) -> int:
        """By how much a turn raises the number at a place of what a loop carries: a constant, or 1."""
        lines = {line.name: line for line in self.computations.get(body, [])}
        carried = next((line.operands() for line in lines.values() if line.root and line.operation == "tuple"), [])
        raised = lines.get(carried[place]) if place < len(carried) else None
        while raised is not None and raised.operation == "copy":
            raised = lines.get(raised.operands()[0])
        if raised is None or raised.operation != "add":
            return 1
        numbers = [lines[name].number() for name in raised.operands() if name in lines]
        return max((number for number in numbers if number), default=1)


def sizes(types: str) -> list[int]:
    """Bytes of the arrays a type names."""
    return [
        math.prod(int(n) for n in shape.split(",") if n) * _width(kind)
        for kind, shape in _ARRAY.findall(types)
        if kind != "token"
    ]


def _width(kind: str) -> int:
    """Bytes of a number."""
    return 1 if kind == "pred" else max(int(digits[0]) // 8, 1) if (digits := re.findall(r"\d+", kind)) else 0


def _sent(instruction: Instruction, kind: str, devices: int) -> int:
    """Bytes a device sends in an exchange of so many."""
    found = sizes(instruction.type)
    if instruction.operation.endswith("-start"):  # what goes in stands before what comes out
        if kind == "collective-permute":
            return found[0]
        if kind == "all-gather":
            found = found[len(found) // 2 :]
    size = sum(found)
    if kind == "collective-permute":
        return size
    share = (devices - 1) / devices
    return round(
        {
            "all-gather": size * share,
            "all-to-all": size * share,
            "all-reduce": 2 * size * share,
            "reduce-scatter": size * (devices - 1),
        }[kind]
    )


def _group(rest: str) -> int | None:
    """How many devices exchange with each other; None for all of them."""
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]* \{([^}]*)\}", rest):
        lengths = {axis: int(length) for axis, length in re.findall(r"'([^']*)'=(\d+)", found[1])}
        axes = re.findall(r"'([^']*)'(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part) if part else lengths[axis] for axis, part in axes)
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(found[1].split(","))
    if re.search(r"replica_groups=(?!\{\})", rest):
        raise ValueError(f"which devices exchange is said in a way not known: {rest[:200]}")
    return None
