"""Times the implementations of the context aggregation on this machine: python -m benchmarks.aggregation.

Prints, for each stage of FocalNet-B LRF, the milliseconds of every implementation that the platform supports, for the
forward pass alone and with all gradients. The last line is one JSON object. --precision float32 computes in float32
instead of bfloat16.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/aggregation.py

from benchmarks.flags import images, make_parser
from focalnet_jax.errors import UserError
from focalnet_jax.ops.aggregation import aggregate_context
from focalnet_jax.ops.implementations import choose_implementation, names
from focalnet_jax.programs.run_command import run_command

STAGES = ((56, 128), (28, 256), (14, 512), (7, 1024))
KERNELS = (3, 5, 7)


def milliseconds(function: Callable[..., Any], *arguments: Any, rounds: int = 5, calls: int = 20) -> float:
    """Returns the milliseconds per call, the median over rounds of `calls` calls, after a first call that compiles."""
    jax.block_until_ready(function(*arguments))
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(calls):
            result = function(*arguments)
        jax.block_until_ready(result)
        taken.append((time.perf_counter() - begun) / calls)
    return 1e3 * statistics.median(taken)


def with_gradients(function: Callable[..., jax.Array], arguments: Any, cotangent: jax.Array) -> Any:
    total, back = jax.vjp(function, *arguments)
    return total, back(cotangent)


def implementations() -> list[str]:
    """Returns the names of the implementations that this platform supports."""
    found = []
    for name in names("aggregation")[1:]:
        try:
            found.append(choose_implementation("aggregation", name, jax.default_backend()))
        except UserError:
            continue
    return found


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--batch", type=images, default=64)
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    flags = parser.parse_args(arguments)
    results = []
    for size, channels in STAGES:
        keys = jax.random.split(jax.random.key(0), 3 + len(KERNELS))
        shape = (flags.batch, size, size, channels)
        context, cotangent = (jax.random.normal(key, shape, flags.precision) for key in keys[:2])
        gates = jax.random.normal(keys[2], (*shape[:3], len(KERNELS) + 1), flags.precision)
        kernels = tuple(
            jax.random.normal(key, (k, k, 1, channels), flags.precision) / k
            for key, k in zip(keys[3:], KERNELS, strict=True)
        )
        for name in implementations():
            function = partial(aggregate_context, implementation=name)
            forward = milliseconds(jax.jit(function), context, gates, kernels)
            both = milliseconds(jax.jit(partial(with_gradients, function)), (context, gates, kernels), cotangent)
            print(
                f"{size:>3} x {channels:<4} {name:<7} {forward:8.3f} ms forward, {both:8.3f} ms with gradients",
                flush=True,
            )
            results.append(
                {
                    "size": size,
                    "channels": channels,
                    "implementation": name,
                    "forward_ms": forward,
                    "train_ms": both,
                }
            )
    print(json.dumps(vars(flags) | {"device": jax.devices()[0].device_kind, "stages": results}))


if __name__ == "__main__":
    run_command(main)
