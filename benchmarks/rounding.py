"""Compares the bfloat16 rounding errors of the aggregation's implementations with XLA's, on any machine.

  python -m benchmarks.rounding [--inputs 12] [--shape 12x8x8x16] [--kernels 3,5,7]

An error is the root mean square difference from the result in float64. For the sum of the levels, the mean of the last
level, and the gradients of all inputs, prints the error over all random inputs divided by XLA's error, and the largest
such ratio for a single input. Kernels for TPUs and GPUs are interpreted. "pairs" is the implementation for a v6e;
"triton" needs channels in multiples of 32 and compiles for minutes. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/rounding.py

from benchmarks.flags import make_parser, positive
from focalnet_jax.errors import UserError
from focalnet_jax.ops import aggregation, triton
from focalnet_jax.ops.mosaic import plan
from focalnet_jax.programs.run_command import run_command

# An implementation: maps context `[B, H, W, C]`, gates `[B, H, W, L + 1]`, L kernels `[k, k, 1, C]` and bias `[C]` to
# the sum of the levels, `[B, H, W, C]`, and the mean of the last level over H and W, `[B, C]`.
Function = Callable[..., tuple[jax.Array, jax.Array]]

_VMEM = 64 * 2**20  # bytes of fast memory on a v5p
_MOST = 2**24  # largest number of values in a context, so that the float64 results fit into memory


def by_xla(context: jax.Array, gates: jax.Array, kernels: Any, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The XLA implementation; in float64, the reference."""
    return _with_mean(*aggregation._levels(context + bias, gates, kernels, aggregation._level))


def in_passes(context: jax.Array, gates: jax.Array, kernels: Any, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The Mosaic implementation."""
    total, last_sum = aggregation._levels_in_passes(context, gates, kernels, bias[None, None, None], _VMEM, True)
    return total, (last_sum / (context.shape[1] * context.shape[2])).astype(context.dtype)


def in_kernels(context: jax.Array, gates: jax.Array, kernels: Any, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The Triton implementation."""
    return _with_mean(*aggregation._levels_in_kernels(context + bias, gates, kernels, True))


def _with_mean(total: jax.Array, last: jax.Array) -> tuple[jax.Array, jax.Array]:
    wide = jnp.promote_types(last.dtype, jnp.float32)
    return total, last.mean((1, 2), dtype=wide).astype(last.dtype)


IMPLEMENTATIONS = {
    "xla": (by_xla, ""),
    "mosaic": (in_passes, "TPU v5 lite"),
    "pairs": (in_passes, "TPU v6 lite"),
    "triton": (in_kernels, ""),
}


def with_gradients(function: Function) -> Callable[..., Any]:
    """Returns a compiled function that computes results, and gradients of context, gates, kernels and bias."""

    def run(given: Any, cotangents: Any) -> Any:
        results, back = jax.vjp(function, *given)
        return results, back(cotangents)

    return jax.jit(run)


def inputs(number: int, shape: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[Any, Any]:
    """Returns random (context, gates, kernels, bias), and cotangents of sum and mean."""
    keys = iter(jax.random.split(jax.random.key(number), 5 + len(sizes)))

    def draw(*lengths: int) -> jax.Array:
        return jax.random.normal(next(keys), lengths, jnp.bfloat16)

    kernels = tuple(draw(k, k, 1, shape[-1]) / k for k in sizes)
    context, gates, bias = draw(*shape), draw(*shape[:3], len(sizes) + 1), draw(shape[-1])
    return (context, gates, kernels, bias), (draw(*shape), draw(shape[0], shape[-1]))


def squares(
    functions: dict[str, Callable[..., Any]], count: int, shape: tuple[int, ...], sizes: tuple[int, ...]
) -> Iterator[dict[str, list[float]]]:
    """Yields for each random input, by implementation, the mean square error of every result against float64."""
    truth_of = with_gradients(by_xla)
    for number in range(count):
        given = inputs(number, shape, sizes)
        with jax.enable_x64(True):
            truth = jax.tree.leaves(truth_of(*jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), given)))
        results = {name: jax.tree.leaves(function(*given)) for name, function in functions.items()}
        yield {
            name: [np.square(np.float64(x) - np.float64(true)).mean() for x, true in zip(leaves, truth, strict=True)]
            for name, leaves in results.items()
        }


def compiled(names: list[str], shape: tuple[int, ...], sizes: tuple[int, ...]) -> dict[str, Callable[..., Any]]:
    """Returns the compiled program of each implementation, for the chip in IMPLEMENTATIONS."""
    programs = {}
    for name in names:
        function, chip = IMPLEMENTATIONS[name]
        # Fewer registers give smaller tiles, which compute the same and compile faster.
        with mock.patch.object(plan, "_chip", lambda chip=chip: chip), mock.patch.object(plan, "_REGISTERS", 4):
            programs[name] = (
                with_gradients(lambda *given, function=function: function(*given))
                .lower(*inputs(0, shape, sizes))
                .compile()
            )
    return programs


def lengths(text: str) -> tuple[int, ...]:
    """Parses a shape `[B, H, W, C]`."""
    parts = text.split("x")
    if len(parts) != 4:
        raise argparse.ArgumentTypeError(f"{text}: expected examples x rows x columns x channels, such as 12x8x8x32")
    shape = tuple(map(positive, parts))
    if math.prod(shape) > _MOST:
        raise argparse.ArgumentTypeError(f"{text}: expected a product of at most {_MOST}")
    return shape


def odd(text: str) -> tuple[int, ...]:
    """Parses kernel sizes."""
    sizes = tuple(map(positive, text.split(",")))
    if any(size % 2 == 0 or size > 9 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text}: expected odd sizes up to 9, such as 3,5,7")
    return sizes


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--inputs", type=positive, default=12)
    parser.add_argument("--shape", type=lengths, default=(12, 8, 8, 16), help="shape of the context")
    parser.add_argument("--kernels", type=odd, default=(3, 5, 7), help="kernel sizes of the levels")
    flags = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")
    shape, sizes = flags.shape, flags.kernels
    if not plan.supports(shape, sizes, jnp.bfloat16.dtype.itemsize, _VMEM):
        raise UserError(
            f"--shape {'x'.join(map(str, shape))}: rows of this width do not fit into fast memory; give fewer columns"
        )
    names = [name for name in IMPLEMENTATIONS if name != "triton" or triton.supports(shape[-1], list(sizes))]
    of_inputs = list(squares(compiled(names, shape, sizes), flags.inputs, shape, sizes))
    ours = names[1:]
    print(" " * 12 + "".join(f"{name:<18}" for name in ours))
    ratios: dict[str, dict[str, float]] = {name: {} for name in ours}
    kernels = (f"kernel {level}" for level in range(1, len(sizes) + 1))
    for number, result in enumerate(["sum", "last mean", "context", "gates", *kernels, "bias"]):
        of = {name: np.array([each[name][number] for each in of_inputs]) for name in names}
        most = {name: np.sqrt((of[name] / of["xla"]).max()) for name in ours}
        for name in ours:
            ratios[name][result] = float(np.sqrt(of[name].sum() / of["xla"].sum()))
        print(f"{result:<12}" + "".join(f"{ratios[name][result]:.2f}, most {most[name]:.2f}   " for name in ours))
    print(json.dumps({"shape": shape, "kernels": sizes, "inputs": flags.inputs, "over_xla": ratios}))


if __name__ == "__main__":
    run_command(main)
