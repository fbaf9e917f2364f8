"""Feed mutated inputs to all readers: python -m fuzz [FAMILY ...] [--seed S].

Each input must give the right value or a one-line error. A traceback, a crash, a hang, a wrong value, or the use of
more than 2 GB of memory is a failure. The same seed gives the same inputs. Failing inputs are kept in runs/fuzz.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz.runner import run_case, run_family

# The longest families first.
FAMILIES = (
    "safetensors",
    "pth",
    "commands",
    "pictures",
    "archives",
    "labels",
    "masks",
    "coco",
    "numbers",
    "records",
    "cards",
    "beside",
    "configs",
)
_TOGETHER = 2  # number of families that run at the same time
_LINES = 6  # number of lines printed per failure


def main() -> int:
    """Runs the families. Returns 1 if an input failed, otherwise 0."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=", ".join(FAMILIES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="number of inputs per family")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="run only this input of one family, in this process")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="folder for failing inputs")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    unknown = sorted(set(flags.families) - set(FAMILIES))
    if unknown or (flags.only is not None and len(flags.families) != 1):
        parser.error(f"expected {'one ' if not unknown else ''}of {', '.join(FAMILIES)}")
    if flags.only is not None:
        return _run_one(flags.families[0], flags.seed, flags.only)
    if flags.json:
        return _run_here(flags.families[0], flags)
    begun = time.monotonic()
    with ThreadPoolExecutor(_TOGETHER) as pool:
        done = list(pool.map(lambda name: _run_apart(name, flags), flags.families or FAMILIES))
    failed = sum(len(each["failures"]) for each in done)
    passed = sum(each["values"] + each["refusals"] for each in done)
    print(f"{f'{failed} failed, ' if failed else ''}{passed} passed in {time.monotonic() - begun:.2f}s")
    return 1 if failed else 0


def _family(name: str):
    return importlib.import_module(f"fuzz.{name}").FAMILY


def _run_one(name: str, seed: int, number: int) -> int:
    family = _family(name)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
        ended = run_case(family, family.prepare(Path(work)), seed, number, Path(work) / str(number))
    print("a value" if ended else "refused")
    return 0


def _run_here(name: str, flags: argparse.Namespace) -> int:
    family = _family(name)
    tally = run_family(family, flags.seed, flags.count or family.count, flags.keep)
    print(json.dumps(vars(tally)))
    return 0


def _run_apart(name: str, flags: argparse.Namespace) -> dict:
    command = [sys.executable, "-m", "fuzz", name, "--json", f"--seed={flags.seed}", f"--keep={flags.keep}"]
    command += [f"--count={flags.count}"] if flags.count else []
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        tally = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        tally = {"values": 0, "refusals": 0, "failures": {"-1": f"the family did not run:\n{done.stderr}"}}
    counts = f"{tally['values']} read, {tally['refusals']} refused, {len(tally['failures'])} failed"
    print(f"{name}: {counts} in {time.monotonic() - begun:.0f}s")
    for number, text in tally["failures"].items():
        lines = "\n    ".join(text.strip().splitlines()[-_LINES:])
        print(f"  FAILED {name} {number}: python -m fuzz {name} --seed {flags.seed} --only {number}\n    {lines}")
    sys.stdout.flush()
    return tally


if __name__ == "__main__":
    sys.exit(main())
