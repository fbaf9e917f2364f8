"""Compares FocalNet's speed with timm's on this CPU, float32: python -m benchmarks.cpu [--models tiny_lrf base_srf].

Alternates measurements of inference and train step of this package, timm eager and timm compiled. With
--task segmentation it compares UPerNet for images of 512x512 with mmsegmentation, eager and with compiled backbone and
heads. Needs torch, timm and mmsegmentation (make parity installs them into .venv-parity). The last line is one JSON
object; a ratio is our speed divided by that of PyTorch's faster mode. On Linux all processes keep and reuse their
memory, in large pages (docs/performance.md).
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/cpu.py

from benchmarks.flags import images, make_parser, positive, seconds
from benchmarks.mmsegmentation import MMSEGMENTATION
from benchmarks.side_by_side import TIMM, compare, report
from focalnet_jax.programs.run_command import run_command

MEMORY = ":".join(
    f"glibc.malloc.{tunable}" for tunable in ("hugetlb=1", "mmap_max=0", "trim_threshold=100000000000", "arena_max=1")
)


def keep_memory() -> None:
    """Restarts this program with GLIBC_TUNABLES, which the C library reads only when a process starts."""
    if "GLIBC_TUNABLES" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"GLIBC_TUNABLES": MEMORY})


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--task", choices=["classification", "segmentation"], default="classification")
    parser.add_argument("--models", nargs="+", help="variants (default: tiny_lrf base_srf, or tiny_lrf with UPerNet)")
    parser.add_argument("--batch", type=images, help="images per step (default: 8, or 2 of 512x512)")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--seconds", type=seconds, default=10, help="duration of each round")
    parser.add_argument("--eager", action="store_true", help="leave out PyTorch's compiled mode")
    flags = parser.parse_args(arguments)
    os.environ["JAX_PLATFORMS"], os.environ["CUDA_VISIBLE_DEVICES"] = "cpu", ""
    os.environ.setdefault("GLIBC_TUNABLES", MEMORY)  # for the workers
    models, batch, compared = (
        (["tiny_lrf"], 2, MMSEGMENTATION) if flags.task == "segmentation" else (["tiny_lrf", "base_srf"], 8, TIMM)
    )
    if flags.eager:
        compared = replace(compared, workers=compared.workers[:2])
    given = (flags.batch or batch, "float32", flags.rounds, flags.seconds)
    report([compare(model, *given, compared=compared) for model in flags.models or models])


if __name__ == "__main__":
    run_command(main)
