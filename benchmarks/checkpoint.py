"""Measures how long saving a checkpoint blocks a run, how long a save takes, and how fast files are verified.

  python -m benchmarks.checkpoint [--models tiny_srf large_fl4] [--rounds 3] [--folder DIR] [--workdir gs://BUCKET/NAME]

The state is a model's parameters with AdamW's two moments. A save ends when its files are written, read back for their
SHA-256, and listed in the manifest. DIR is a folder on the disk to measure (default: a temporary folder); its files are
verified from the disk, not from memory. With --workdir, saves to the disk and to this bucket alternate; objects below
the address are deleted at the end.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/checkpoint.py

from benchmarks.flags import make_parser, positive
from focalnet_jax.checkpoint.integrity import find_damage, read_manifest
from focalnet_jax.checkpoint.manager import Checkpoints
from focalnet_jax.checkpoint.steps import FOLDER
from focalnet_jax.convert.mapping import param_shapes
from focalnet_jax.model import list_models, variant_config
from focalnet_jax.programs.run_command import run_command
from focalnet_jax.storage.address import AnyPath, is_bucket, to_path
from focalnet_jax.storage.files import remove_tree


def state_of(model: str) -> dict[str, object]:
    """Returns arrays with the shapes of a train state; all values are different."""
    rng = np.random.default_rng(0)
    shapes = param_shapes(variant_config(f"focalnet_{model}"))
    params, mu, nu = (
        jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape, np.float32)), shapes) for _ in range(3)
    )
    return {"params": params, "training": {"mu": mu, "nu": nu, "step": jnp.int32(0)}}


def forget(folder: Path) -> None:
    """Drops the files from the page cache, so that the next read comes from the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Saves:
    """Saves of changing arrays to a workdir, and their times.

    Args:
      workdir: the workdir.
      items: the arrays.
    """

    def __init__(self, workdir: AnyPath, items: dict[str, object]):
        self.checkpoints = Checkpoints(workdir, "eval/top1", keep_latest=1, keep_best=0)
        self.folder = workdir / FOLDER
        self.items, self.step = items, 0
        self.blocked: list[float] = []
        self.whole: list[float] = []
        self.verified: list[float] = []

    def measure(self) -> None:
        """Makes one save in the background, one that is waited for, and verifies it."""
        begun = self._save()
        self.blocked.append(time.perf_counter() - begun)
        self.checkpoints.wait()
        begun = self._save()
        self.checkpoints.wait()
        self.whole.append(time.perf_counter() - begun)
        if not is_bucket(self.folder):
            forget(self.folder / str(self.step))
        begun = time.perf_counter()
        damage = find_damage(self.folder / str(self.step))
        self.verified.append(time.perf_counter() - begun)
        assert not damage

    def result(self, model: str) -> dict[str, object]:
        """Returns the medians without the first round, which warms up."""
        self.checkpoints.close()
        size = sum(size for size, _ in read_manifest(self.folder / str(self.step)).files.values())
        ratios = [a / b for a, b in zip(self.blocked[1:], self.whole[1:], strict=True)]
        return {
            "model": model,
            "workdir": "bucket" if is_bucket(self.folder) else "disk",
            "megabytes": round(size / 1e6, 1),
            "blocks_seconds": round(statistics.median(self.blocked[1:]), 3),
            "waited_for_seconds": round(statistics.median(self.whole[1:]), 3),
            "ratio": round(statistics.median(ratios), 4),
            "verified_gigabytes_per_second": round(size / statistics.median(self.verified[1:]) / 1e9, 2),
        }

    def _save(self) -> float:
        """Changes the arrays as a step does, and starts a save; returns when it was started."""
        self.step, self.items = self.step + 1, jax.block_until_ready(_changed(self.items))
        begun = time.perf_counter()
        self.checkpoints.save(self.step, self.items, {})
        return begun


@functools.partial(jax.jit, donate_argnums=0)
def _changed(tree: object) -> object:
    return jax.tree.map(lambda leaf: leaf + 1, tree)


def measure(model: str, rounds: int, workdirs: list[AnyPath]) -> list[dict[str, object]]:
    """Returns the results of saves to one or two workdirs, which alternate."""
    saves = [Saves(workdir, state_of(model)) for workdir in workdirs]
    for _ in range(rounds + 1):
        for each in saves:
            each.measure()
    results = [each.result(model) for each in saves]
    if len(saves) == 2:
        disk, bucket = (each.blocked[1:] for each in saves)
        results[1]["blocks_ratio_to_disk"] = round(
            statistics.median(b / a for a, b in zip(disk, bucket, strict=True)), 3
        )
    return results


def main(arguments: list[str]) -> int:
    """Measures; prints one line per model, and a last line with all results as JSON."""
    parser = make_parser(__doc__)
    names = [name.removeprefix("focalnet_") for name in list_models()]
    parser.add_argument("--models", nargs="+", choices=names, default=["tiny_srf", "large_fl4"])
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--workdir")
    flags = parser.parse_args(arguments)
    if flags.workdir and not is_bucket(flags.workdir):
        parser.error(f"--workdir {flags.workdir}: expected gs://BUCKET/NAME; for a disk use --folder")
    results = []
    for model in flags.models:
        bucket = [to_path(f"{flags.workdir}/{model}", "--workdir")] if flags.workdir else []
        with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
            try:
                measured = measure(model, flags.rounds, [Path(folder), *bucket])
            finally:
                for workdir in bucket:
                    remove_tree(workdir)
        results += measured
        for result in measured:
            ratio = result.get("blocks_ratio_to_disk")
            compared = f" ({ratio} times that of the disk)" if ratio else ""
            print(
                f"{model:<11} {result['megabytes']} MB to a {result['workdir']}: a save blocks the run for "
                f"{result['blocks_seconds']} s{compared}, or {result['waited_for_seconds']} s if it waits for the end "
                f"(ratio {result['ratio']}); verified at {result['verified_gigabytes_per_second']} GB/s",
                flush=True,
            )
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    run_command(main)
