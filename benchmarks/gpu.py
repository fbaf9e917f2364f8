"""Compares the speed of FocalNet with timm's on this machine's GPU, bfloat16.

  python -m benchmarks.gpu [--models base_lrf] [--batch 64] [--config.KEY=VALUE ...]

Alternates measurements of inference and train step of this package, timm eager and timm compiled. Needs torch and timm.
Compiling takes minutes. The last line is one JSON object; a ratio is our speed divided by that of timm's faster mode.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/gpu.py

from benchmarks.flags import check_overrides, images, make_parser, positive, seconds
from benchmarks.side_by_side import SETTINGS, compare, report
from focalnet_jax.programs.run_command import run_command


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--models", nargs="+", default=["base_lrf"])
    parser.add_argument("--batch", type=images, default=64)
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--seconds", type=seconds, default=2, help="duration of each round")
    flags, overrides = parser.parse_known_args(arguments)
    check_overrides(overrides, precision="a GPU's step is bfloat16", **SETTINGS)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # torch needs some of the memory
    run = (flags.batch, "bfloat16", flags.rounds, flags.seconds, overrides)
    report([compare(model, *run) for model in flags.models])


if __name__ == "__main__":
    run_command(main)
