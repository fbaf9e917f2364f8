"""Measures how long saving a checkpoint blocks a run, how long a save takes, and how fast files are verified.

  python -m benchmarks.checkpoint [--models tiny_srf large_fl4] [--rounds 3] [--folder DIR]

The state is a model's parameters with AdamW's two moments. A save ends when its files are written, read back for their
SHA-256, and listed in the manifest. Files are verified from the disk, not from memory. DIR is a folder on the disk to
measure (default: a temporary folder).
"""

from __future__ import annotations

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


def measure(model: str, rounds: int, folder: Path) -> dict[str, object]:
    """Returns medians over rounds, in which saves in the background and saves that are waited for alternate."""
    items = state_of(model)
    changed = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)  # as a step does
    checkpoints = Checkpoints(folder, "eval/top1", keep_latest=1, keep_best=0)
    blocked, whole, verified, step = [], [], [], 0
    for _ in range(rounds + 1):  # the first one warms up
        step, items = step + 1, jax.block_until_ready(changed(items))
        begun = time.perf_counter()
        checkpoints.save(step, items, {})
        blocked.append(time.perf_counter() - begun)
        checkpoints.wait()
        step, items = step + 1, jax.block_until_ready(changed(items))
        begun = time.perf_counter()
        checkpoints.save(step, items, {})
        checkpoints.wait()
        whole.append(time.perf_counter() - begun)
        forget(folder / FOLDER / str(step))
        begun = time.perf_counter()
        damage = find_damage(folder / FOLDER / str(step))
        verified.append(time.perf_counter() - begun)
        assert not damage
    checkpoints.close()
    size = sum(size for size, _ in read_manifest(folder / FOLDER / str(step)).files.values())
    ratios = [a / b for a, b in zip(blocked[1:], whole[1:], strict=True)]
    return {
        "model": model,
        "megabytes": round(size / 1e6, 1),
        "blocks_seconds": round(statistics.median(blocked[1:]), 3),
        "waited_for_seconds": round(statistics.median(whole[1:]), 3),
        "ratio": round(statistics.median(ratios), 4),
        "verified_gigabytes_per_second": round(size / statistics.median(verified[1:]) / 1e9, 2),
    }


def main(arguments: list[str]) -> int:
    """Measures; prints one line per model, and a last line with all results as JSON."""
    parser = make_parser(__doc__)
    names = [name.removeprefix("focalnet_") for name in list_models()]
    parser.add_argument("--models", nargs="+", choices=names, default=["tiny_srf", "large_fl4"])
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--folder", type=Path)
    flags = parser.parse_args(arguments)
    results = []
    for model in flags.models:
        with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
            result = measure(model, flags.rounds, Path(folder))
        results.append(result)
        print(
            f"{model:<11} {result['megabytes']} MB: a save blocks the run for {result['blocks_seconds']} s, or "
            f"{result['waited_for_seconds']} s if it waits for the end (ratio {result['ratio']}); verified at "
            f"{result['verified_gigabytes_per_second']} GB/s",
            flush=True,
        )
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    run_command(main)
