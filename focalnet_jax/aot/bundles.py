"""Estimates the cycles of this package's own TPU kernels, for which the compiler's HLO text has no estimate.

The compiler can dump a kernel as bundles; a bundle contains the instructions that are issued in one cycle. The estimate
is the larger of two numbers: the bundles that are executed, where a bundle in a loop counts once per iteration, and the
cycles in which the busiest matrix unit receives operands. Time spent waiting for memory is not included.
"""

from __future__ import annotations

import atexit
import collections
import functools
import os
import re
import shutil
import tempfile
from pathlib import Path

_FLAGS = "--xla_jf_dump_to={} --xla_jf_dump_llo_pass_label_regex=.*final_bundles.*"
_FILE = re.compile(r"\d+-(.+)-\d+-final_bundles\.txt")
_NUMBER = re.compile(r"\.\d+$")
_BUNDLE = re.compile(r"\s*(?:0x[0-9a-f]+|\d+)\s+([A-Z ]*):\s*([ >]*)\{(\})?")
_CARRIED = re.compile(r"= sphi %\w+, %(\w+)")
_EXIT = re.compile(r"scmp\.ge\.s32\.totalorder (?:\(\S+\), )?%(\w+), (\d+) /\* loop exit test")
# Exit of a loop that copies a partial last block. Its trip count is known only at run time; it is small.
_OPEN_EXIT = re.compile(r"scmp\.ge\.s32\.totalorder (?:\(\S+\), )?%(\w+), %\w+")
# Branch by which the loop over the grid skips the computation in its first and last iterations, which only copy blocks.
_SKIP = re.compile(r"sbr\.rel \(!?%\w+\) target = \$region(\d+)")
_REGION = re.compile(r"\bregion (\d+)\b")
_WITHIN = re.compile(r"scmp\.lt\.s32\.totalorder %\w+, (\d+)")
# Instruction that passes 16 rows to a matrix unit. The unit takes one row per cycle, or two on a v6e (derived from the
# v6e's peak rate and its schedules).
_GIVEN = re.compile(r"vmatmul\.[\w.]*bf16[\w.]*\.mxu(\d)")
_ROWS, _WIDE_ROWS = 16, 8
# A name that ends with "_4_of_6" means that 4 of the 6 iterations of the grid compute: see `call` in
# ops/mosaic/passes.py.
_COMPUTING = re.compile(r"_(\d+)_of_(\d+)")


@functools.cache
def folder() -> Path:
    """Returns the folder into which the compiler dumps bundles.

    The compiler reads the environment variable that the first call sets only when it is loaded, so the first call must
    happen before that.
    """
    made = Path(tempfile.mkdtemp(prefix="bundles"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    os.environ["LIBTPU_INIT_ARGS"] = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {_FLAGS.format(made)}".strip()
    return made


def forget() -> None:
    """Deletes the dumps of all previous compilations."""
    for path in folder().iterdir():
        path.unlink()


def kernel_cycles(name: str) -> int:
    """Returns the estimated cycles of a kernel that was compiled since the last call of `forget`.

    Args:
      name: name of the kernel's operation in the compiled program.

    Raises:
      ValueError: the trip count of a loop is unknown.
    """
    # Equal kernels are compiled and dumped once; the names of their operations differ only in the number at the end.
    files = ((path, _FILE.fullmatch(path.name)) for path in folder().iterdir())
    written = {_NUMBER.sub("", named[1]): path for path, named in files if named}
    path = written[_NUMBER.sub("", name)]
    computing = _COMPUTING.search(name)
    return count(path.read_text(errors="replace"), int(computing[1]) / int(computing[2]) if computing else 1.0)


def count(text: str, share: float = 1.0) -> int:
    """Returns the estimated cycles of a kernel: the executed bundles or, if larger, the busiest matrix unit's cycles.

    A bundle in a loop counts once per iteration. The outermost loop runs over the grid; all but two of its iterations
    compute.

    Args:
      text: the compiler's dump of a kernel.
      share: fraction of the grid's iterations that run the inner loops.

    Raises:
      ValueError: the trip count of a loop is unknown.
    """
    lines = [(found, line) for line in text.splitlines() if (found := _BUNDLE.match(line))]
    turns = _turns(lines)
    computing, computed = _computing(lines, turns), (turns[0] - 2) / turns[0] if turns else 1.0
    loops: list[tuple[int, float]] = []  # loops around the current bundle: depth, executions
    total, given = 0.0, collections.Counter()
    for index, (found, line) in enumerate(lines):
        begins, empty = "LB" in found[1], found[3]  # an empty bundle has no depth
        depth = found[2].count(">")
        while loops and not empty and (loops[-1][0] > depth or (begins and loops[-1][0] == depth)):
            loops.pop()
        if begins:
            around = loops[-1][1] if loops else 1.0
            loops.append((depth, around * turns.pop(0) * (share if depth == 2 else 1.0)))
        times = (loops[-1][1] if loops else 1.0) * (computed if index in computing else 1.0)
        total += times
        for unit in _GIVEN.findall(line):
            given[unit] += times * (_WIDE_ROWS if "mubr" in line else _ROWS)
    return round(max(total, *given.values(), 0))


def _computing(lines: list[tuple[re.Match[str], str]], turns: list[int]) -> range:
    """Returns the indices of the lines that the loop over the grid skips in two of its iterations.

    The lines are the longest range that a branch skips; the range is empty if the loop always computes.
    """
    if not any(int(number) == turns[0] - 1 for _, line in lines for number in _WITHIN.findall(line)):
        return range(0)
    ends = {region: index for index, (_, line) in reversed([*enumerate(lines)]) for region in _REGION.findall(line)}
    skipped = [
        range(index + 1, ends.get(region, 0)) for index, (_, line) in enumerate(lines) for region in _SKIP.findall(line)
    ]
    return max(skipped, key=len, default=range(0))


def _turns(lines: list[tuple[re.Match[str], str]]) -> list[int]:
    """Returns the trip count of each loop, in the order in which the loops begin.

    A loop ends by comparing a value that it carries with the trip count. If a comparison's value is in memory, the
    comparison is assigned to the only loop that has no other.
    """
    lengths = {found[1]: int(found[2]) for _, line in lines for found in _EXIT.finditer(line)}
    beginnings = [set(_CARRIED.findall(line)) for found, line in lines if "LB" in found[1]]
    begun = {name for names in beginnings for name in names}
    lengths |= {found[1]: 1 for _, line in lines for found in _OPEN_EXIT.finditer(line) if found[1] in begun}
    carried = [names & lengths.keys() for names in beginnings]
    left = lengths.keys() - {name for names in carried for name in names}
    if [len(names) for names in carried].count(0) != len(left) or len(left) > 1:
        raise ValueError(f"the trip counts of {len(left)} of {len(carried)} loops are unknown")
    return [lengths[next(iter(names or left))] for names in carried]
