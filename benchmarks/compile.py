"""Measures how compile time grows with depth: python -m benchmarks.compile.

Compiles the train step of a small FocalNet with 18 and with 36 blocks in its third stage, alternately and without a
cache, with scanned and with unrolled blocks. The last line is one JSON object: seconds, and the compile time of the
deeper model divided by that of the shallower model.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/compile.py

from benchmarks.flags import load_recipe, make_parser, positive
from focalnet_jax.distributed.mesh import make_mesh, split_by_example
from focalnet_jax.model import list_models
from focalnet_jax.programs.run_command import run_command
from focalnet_jax.tasks import task_kind
from focalnet_jax.training.spec import make_spec
from focalnet_jax.training.state import abstract_state
from focalnet_jax.training.step import make_train_step

SMALL = ["--config.model.embed_dim=16", "--config.batch_size=8"]


def compile_seconds(model: str, depth: int, scanned: bool) -> float:
    """Returns the seconds to trace, lower and compile the step of the ImageNet-1K recipe."""
    options = [f"--config.model.depths=(2,2,{depth},2)", f"--config.model.scan_blocks={scanned}", *SMALL]
    config = load_recipe(model, options)
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1})
    task = task_kind(config.task).make_task(config, evaluated=False)
    spec, init = make_spec(config, mesh, task, warmup_steps=1, total_steps=10)
    batch = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=split_by_example(mesh))
        for name, array in task.batch_spec(8).items()
    }
    state = abstract_state(spec, init)
    begun = time.perf_counter()
    make_train_step(spec).lower(state, batch).compile()
    return time.perf_counter() - begun


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__)
    names = [name.removeprefix("focalnet_") for name in list_models()]
    parser.add_argument("--model", default="base_srf", choices=names)
    parser.add_argument("--rounds", type=positive, default=3)
    flags = parser.parse_args(arguments)
    jax.config.update("jax_enable_compilation_cache", False)
    result = {}
    for scanned, rounds in ((True, flags.rounds), (False, 1)):
        seconds = {depth: [] for depth in (18, 36)}
        for _ in range(rounds):
            for depth, taken in seconds.items():
                taken.append(compile_seconds(flags.model, depth, scanned))
        name = "scanned" if scanned else "unrolled"
        ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
        result |= {f"{name}_{depth}": round(statistics.median(taken), 2) for depth, taken in seconds.items()}
        result[f"{name}_ratio"] = round(statistics.median(ratios), 2)
        text = ", ".join(f"{depth} blocks {result[f'{name}_{depth}']} s" for depth in seconds)
        print(f"{name:<9} {text}, ratio {min(ratios):.2f} to {max(ratios):.2f}")
    print(json.dumps(result))


if __name__ == "__main__":
    run_command(main)
