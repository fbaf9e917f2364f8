"""Runs cases in forked processes to detect crashes, hangs and memory use, and keeps failing inputs."""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from focalnet_jax.errors import RunFailedError, UserError

_BATCH = 400  # cases per process
_MOST_BYTES = 2 * 10**9  # largest number of bytes that a case may allocate
_TOO_MANY = 25  # number of failures after which a family ends


class WrongAnswerError(AssertionError):
    """Raised if a value that was read differs from the content of the input."""


@dataclass(frozen=True)
class Family:
    """A family of cases: one kind of input.

    Attributes:
      name: the name on the command line.
      count: the number of cases in a complete run.
      prepare: function of a folder that returns the data from which all cases are made. It is called once per process;
        the folder is kept until all cases have run.
      case: function that creates the input of one case in an empty folder, reads it and checks the value. It raises
        `UserError` if the package rejects the input, and `WrongAnswerError` for a wrong value.
      seconds: the time limit of a case.
    """

    name: str
    count: int
    prepare: Callable[[Path], Any]
    case: Callable[[Any, np.random.Generator, Path], None]
    seconds: float = 30


@dataclass
class Tally:
    """Results of a family: the numbers of accepted and rejected inputs, and the failures by case number."""

    values: int = 0
    refusals: int = 0
    failures: dict[int, str] = field(default_factory=dict)


def run_case(family: Family, base: Any, seed: int, number: int, folder: Path) -> bool:
    """Runs one case. Returns whether the package accepted the input; an exception means a failure."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, number])
    try:
        with warnings.catch_warnings(action="ignore"):
            family.case(base, rng, folder)
    except (UserError, RunFailedError) as error:
        if not str(error).strip():  # only emptiness is checked, because commands put every message on one line
            raise WrongAnswerError(f"{type(error).__name__} has no message") from error
        return False
    return True


def run_family(family: Family, seed: int, count: int, keep: Path) -> Tally:
    """Runs the first `count` cases. Failing inputs are kept in `keep`/FAMILY-SEED-NUMBER."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        work, first = Path(temporary), 0
        while first < count and len(tally.failures) < _TOO_MANY:
            first = _run_batch(family, seed, range(first, min(first + _BATCH, count)), work, tally)
        for number, text in tally.failures.items():
            kept = keep / f"{family.name}-{seed}-{number}"
            shutil.rmtree(kept, ignore_errors=True)
            if (work / str(number)).exists():
                shutil.copytree(work / str(number), kept, symlinks=True, ignore=_special)
            kept.mkdir(parents=True, exist_ok=True)
            (kept / "failure.txt").write_text(text + "\n")
    return tally


def _special(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not (Path(folder) / name).is_file() and not (Path(folder) / name).is_dir()]


def _run_batch(family: Family, seed: int, numbers: range, work: Path, tally: Tally) -> int:
    """Runs cases in one process until a case ends it. Returns the number of the next case."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        _run_in_child(family, seed, numbers, work, writing)
    os.close(writing)
    number, waiting, text, ended, begun = numbers.start, b"", "", False, False
    deadline = time.monotonic() + 120  # for `prepare`
    while True:
        ready, _, _ = select.select([reading], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            os.kill(process, signal.SIGKILL)
            text = f"hangs: no end after {family.seconds:.0f} s"
            break
        received = os.read(reading, 2**16)
        if not received:
            break
        waiting += received
        *lines, waiting = waiting.split(b"\n")
        begun |= bool(lines)
        for line in lines:
            word, _, rest = line.decode().partition(" ")
            number, ended = int(rest.partition(" ")[0]), word != "begin"
            tally.values += word == "value"
            tally.refusals += word == "refused"
            if word == "failed":
                tally.failures[number] = rest.partition(" ")[2].encode().decode("unicode_escape")
        deadline = time.monotonic() + family.seconds
    os.close(reading)
    _, status = os.waitpid(process, 0)
    log = (work / "log").read_text(errors="replace")[-3000:]
    if not begun:
        raise RuntimeError(f"{family.name} cannot be prepared: {text or status}\n{log}")
    if not ended and (text or status):
        tally.failures[number] = f"{text or f'crash: exit code {os.waitstatus_to_exitcode(status)}'}\n{log}"
        return number + 1
    return number + 1 if status else numbers.stop


def _run_in_child(family: Family, seed: int, numbers: range, work: Path, writing: int) -> None:
    log = os.open(work / "log", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    for output in (1, 2):
        os.dup2(log, output)
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def tell(word: str, number: int, text: str = "") -> None:
        os.write(writing, f"{word} {number} {text.encode('unicode_escape').decode()}".strip().encode() + b"\n")

    status = 0
    try:
        base = family.prepare(work)
        allowed = _address_space() + 4 * _MOST_BYTES  # so that no case uses up the memory of the machine
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        before = _most_memory()
        for number in numbers:
            tell("begin", number)
            folder = work / str(number)
            try:
                word, text = "value" if run_case(family, base, seed, number, folder) else "refused", ""
            except KeyboardInterrupt:
                raise
            except BaseException:
                word, text = "failed", traceback.format_exc()[-4000:]
            if _most_memory() - before > _MOST_BYTES:
                word, text = "failed", f"takes {(_most_memory() - before) / 1e9:.1f} GB"
                status = 1  # a new process, because the peak memory of this one does not decrease
            tell(word, number, text)
            if word != "failed":
                shutil.rmtree(folder, ignore_errors=True)
            if status:
                break
    except BaseException:
        traceback.print_exc()
        status = 3
    sys.stderr.flush()
    os._exit(status)


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
