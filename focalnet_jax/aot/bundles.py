"""Cycles of the kernels of our own in a TPU program, for which the compiler writes no estimate beside the operation.

It can write down the bundles it made of them, the instructions that are issued in one cycle each. They are counted as
often as the loops around them run, or as long as the matrix units take for what they are given, if that is longer.
Waiting for memory is not part of it.
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
# Of loops that copy the last part of what no block divides: how often is known where they run, and it is not often.
_OPEN_EXIT = re.compile(r"scmp\.ge\.s32\.totalorder (?:\(\S+\), )?%(\w+), %\w+")
# What the grid's loop computes, which it skips in its first and its last turn: they only bring and take blocks.
_SKIP = re.compile(r"sbr\.rel \(!?%\w+\) target = \$region(\d+)")
_REGION = re.compile(r"\bregion (\d+)\b")
_WITHIN = re.compile(r"scmp\.lt\.s32\.totalorder %\w+, (\d+)")
# 16 rows given to a matrix unit, which takes one a cycle; a v6e's, by its peak and its schedules, two.
_GIVEN = re.compile(r"vmatmul\.[\w.]*bf16[\w.]*\.mxu(\d)")
_ROWS, _WIDE_ROWS = 16, 8
# A kernel whose turns do not all compute says in its name how many do: see ops/mosaic/passes.py.
_COMPUTING = re.compile(r"_(\d+)_of_(\d+)")


@functools.cache
def folder() -> Path:
    """Where the compiler will write the bundles; to be asked for before it is loaded."""
    made = Path(tempfile.mkdtemp(prefix="bundles"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    os.environ["LIBTPU_INIT_ARGS"] = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {_FLAGS.format(made)}".strip()
    return made


def forget() -> None:
    """What was compiled until now."""
    for path in folder().iterdir():
        path.unlink()


def kernel_cycles(name: str) -> int:
    """Cycles of an operation of what was compiled since."""
    # Equal kernels are compiled, and written, once: their names differ in the number alone.
    files = ((path, _FILE.fullmatch(path.name)) for path in folder().iterdir())
    written = {_NUMBER.sub("", named[1]): path for path, named in files if named}
    path = written[_NUMBER.sub("", name)]
    computing = _COMPUTING.search(name)
    return count(path.read_text(errors="replace"), int(computing[1]) / int(computing[2]) if computing else 1.0)


def count(text: str, share: float = 1.0) -> int:
    """Bundles, as often as the loops they are in run.

    The outermost loop is the grid's: it computes in all but two of its turns, and the loops in it run in a share of
    them.
    """
    lines = [(found, line) for line in text.splitlines() if (found := _BUNDLE.match(line))]
    turns = _turns(lines)
    computing, computed = _computing(lines, turns), (turns[0] - 2) / turns[0] if turns else 1.0
    loops: list[tuple[int, float]] = []  # the open ones: depth, and how often they run
    total, given = 0.0, collections.Counter()
    for place, (found, line) in enumerate(lines):
        begins, empty = "LB" in found[1], found[3]  # where nothing is issued, no depth is said
        depth = found[2].count(">")
        while loops and not empty and (loops[-1][0] > depth or (begins and loops[-1][0] == depth)):
            loops.pop()
        if begins:
            around = loops[-1][1] if loops else 1.0
            loops.append((depth, around * turns.pop(0) * (share if depth == 2 else 1.0)))
        times = (loops[-1][1] if loops else 1.0) * (computed if place in computing else 1.0)
        total += times
        for unit in _GIVEN.findall(line):
            given[unit] += times * (_WIDE_ROWS if "mubr" in line else _ROWS)
    return round(max(total, *given.values(), 0))


def _computing(lines: list[tuple[re.Match[str], str]], turns: list[int]) -> range:
    """The places of what the grid's loop skips in two of its turns: the longest that it can skip at all."""
    if not any(int(number) == turns[0] - 1 for _, line in lines for number in _WITHIN.findall(line)):
        return range(0)
    ends = {region: place for place, (_, line) in reversed([*enumerate(lines)]) for region in _REGION.findall(line)}
    skipped = [
        range(place + 1, ends.get(region, 0)) for place, (_, line) in enumerate(lines) for region in _SKIP.findall(line)
    ]
    return max(skipped, key=len, default=range(0))


def _turns(lines: list[tuple[re.Match[str], str]]) -> list[int]:
    """How often each loop runs, in the order in which they begin.

    A loop ends by comparing what it carries; where that is kept in memory, it belongs to the one loop that is left.
    """
    lengths = {found[1]: int(found[2]) for _, line in lines for found in _EXIT.finditer(line)}
    beginnings = [set(_CARRIED.findall(line)) for found, line in lines if "LB" in found[1]]
    begun = {name for names in beginnings for name in names}
    lengths |= {found[1]: 1 for _, line in lines for found in _OPEN_EXIT.finditer(line) if found[1] in begun}
    carried = [names & lengths.keys() for names in beginnings]
    left = lengths.keys() - {name for names in carried for name in names}
    if [len(names) for names in carried].count(0) != len(left) or len(left) > 1:
        raise ValueError(f"of {len(carried)} loops it is not known how often {len(left)} run")
    return [lengths[next(iter(names or left))] for names in carried]
