"""Reads the cost of a compiled program from its HLO text: estimated cycles, and bytes sent between devices.

XLA annotates the operations of a TPU program with an estimate of their cycles, except loops. The cycles of a loop are
computed here, from its trip count and the operations in its body.
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
    """One instruction of a program, which is one line of its text."""

    root: bool  # whether its result is the result of the computation
    name: str  # of the result
    type: str  # of the result
    operation: str
    rest: str  # of the line, from the first operand

    def operands(self) -> list[str]:
        """Returns the names of the operands."""
        given = re.sub(r"/\*.*?\*/", "", self.rest.partition(")")[0])
        return [part.split()[-1].lstrip("%") for part in given.split(",") if part.strip()]

    def number(self) -> int | None:
        """Returns the value of an integer constant, or None if the instruction is not an integer constant."""
        found = re.match(r"(-?\d+)\)", self.rest) if self.operation == "constant" else None
        return int(found[1]) if found else None

    def called(self) -> list[str]:
        """Returns the names of the called computations; for loops, see `loop`."""
        found = _CALLED.search(self.rest) if self.operation in _CALLING else None
        return [name.strip(" %") for name in found[1].split(",")] if found else []

    def loop(self) -> tuple[str, str] | None:
        """Returns the names of the condition and the body of a loop, or None if the instruction is not a loop."""
        found = re.search(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)", self.rest)
        return (found[1], found[2]) if self.operation == "while" and found else None

    @property
    def own(self) -> bool:
        """Whether the instruction calls one of this package's kernels."""
        return self.operation == "custom-call" and 'custom_call_target="tpu_custom_call"' in self.rest

    def cycles(self) -> int | None:
        """Returns the compiler's estimate of the instruction's cycles, or None if the line has no estimate."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(found[1]) if found else None


@dataclass
class Program:
    """An optimised HLO module, parsed from its text."""

    text: str = field(repr=False)

    @cached_property
    def computations(self) -> dict[str, list[Instruction]]:
        """Instructions of each computation, by the computation's name."""
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
        """Returns the estimated cycles of the program, or None if the compiler has no estimates.

        An operation in a loop counts once per iteration.

        Args:
          of_kernel: function that returns the cycles of one of this package's kernels by the kernel's name, because the
            compiler has no estimate of kernels; see `bundles.kernel_cycles`.
        """
        counted = [cycles for _, cycles in self.estimates(of_kernel)]
        return sum(counted) if counted else None

    def estimates(self, of_kernel: Callable[[str], int]) -> Iterator[tuple[Instruction, int]]:
        """Yields every operation that has an estimate, and its cycles over all iterations (arguments: see `cycles`)."""
        for instruction, times, fused in self.run():
            if fused:  # the estimate of a fusion includes its instructions
                continue
            cycles = of_kernel(instruction.name) if instruction.own else instruction.cycles()
            if cycles is not None:
                yield instruction, times * cycles

    def collective_bytes(self) -> dict[str, int]:
        """Returns the bytes that one device sends per run of the program, by kind of collective.

        Collectives are assumed to send data around a ring of devices.
        """
        by_channel: dict[tuple[str, str], int] = {}
        for index, (instruction, times, _) in enumerate(self.run()):
            kind = instruction.operation.removesuffix("-start")
            if kind in COLLECTIVES:
                # A collective that overlaps with several fusions is listed in each of them, with the same channel.
                channel = re.search(r"channel_id=(\d+)", instruction.rest)
                key = kind, channel[1] if channel else f"at {index}"
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
        """Yields every instruction, the number of times that it runs, and whether it is part of a fusion."""
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
        """Returns the trip count of a loop, or 1 if the count depends on computed values, as in rejection sampling.

        The count is read from the compiler's annotation. Without one, it is the limit of a counter that starts at 0,
        divided by the counter's increment.
        """
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest):
            return int(known[1])
        lines = self.computations.get(condition, [])
        limits = [number for line in lines if line.type[:5] in _COUNTERS and (number := line.number()) is not None]
        counts = any("direction=LT" in line.rest or line.operation == "fusion" for line in lines)
        if not limits or not counts:
            return 1
        indices = {
            int(found[1])
            for line in lines
            if line.operation == "get-tuple-element" and (found := re.search(r"index=(\d+)", line.rest))
        }
        return -(-max(limits) // max((self._raised(body, index) for index in indices), default=1))

    def _raised(self, body: str, index: int) -> int:
        """Returns the constant that an iteration adds to the carried value at `index`, or 1 if it is unknown."""
        lines = {line.name: line for line in self.computations.get(body, [])}
        carried = next((line.operands() for line in lines.values() if line.root and line.operation == "tuple"), [])
        raised = lines.get(carried[index]) if index < len(carried) else None
        while raised is not None and raised.operation == "copy":
            raised = lines.get(raised.operands()[0])
        if raised is None or raised.operation != "add":
            return 1
        numbers = [lines[name].number() for name in raised.operands() if name in lines]
        return max((number for number in numbers if number), default=1)


def sizes(types: str) -> list[int]:
    """Returns the bytes of each array in an HLO type."""
    return [
        math.prod(int(n) for n in shape.split(",") if n) * _width(kind)
        for kind, shape in _ARRAY.findall(types)
        if kind != "token"
    ]


def _width(kind: str) -> int:
    """Returns the bytes per element of an HLO element type."""
    return 1 if kind == "pred" else max(int(digits[0]) // 8, 1) if (digits := re.findall(r"\d+", kind)) else 0


def _sent(instruction: Instruction, kind: str, devices: int) -> int:
    """Returns the bytes that each of `devices` devices sends in a collective."""
    found = sizes(instruction.type)
    if instruction.operation.endswith("-start"):  # its type lists the operands before the results
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
    """Returns the number of devices in a group of a collective, or None if all devices are one group."""
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]* \{([^}]*)\}", rest):
        lengths = {axis: int(length) for axis, length in re.findall(r"'([^']*)'=(\d+)", found[1])}
        axes = re.findall(r"'([^']*)'(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part) if part else lengths[axis] for axis, part in axes)
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(found[1].split(","))
    if re.search(r"replica_groups=(?!\{\})", rest):
        raise ValueError(f"unknown format of replica groups: {rest[:200]}")
    return None
