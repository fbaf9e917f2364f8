"""Times the matrix products of an MLP in XLA, this package and PyTorch, on a CPU: python -m benchmarks.products.

Measures the two layers of the MLP of each stage of FocalNet-B, and the gradients of their inputs and weights, in
float32. Prints 10^9 operations per second, the best of ten. Needs torch (make parity installs it into .venv-parity).
The last line is one JSON object with geometric means of the speeds of XLA and of this package (ops/product.py) divided
by PyTorch's.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/products.py

from benchmarks.cpu import keep_memory
from benchmarks.flags import images, make_parser
from benchmarks.side_by_side import need
from focalnet_jax.errors import UserError
from focalnet_jax.programs.run_command import run_command

STAGES = ((56, 128), (28, 256), (14, 512), (7, 1024))
PRODUCTS = ("outputs", "inputs' gradients", "weights' gradients")


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--batch", type=images, default=8)
    batch = parser.parse_args(arguments).batch
    need("torch")
    os.environ["JAX_PLATFORMS"] = "cpu"
    keep_memory()
    from focalnet_jax.ops import native  # imported here, because importing JAX reads the environment

    if native.register() is None:
        raise UserError(f"our products cannot be used here: {native.why_not()}")
    ratios: dict[str, dict[str, list[float]]] = {who: {name: [] for name in PRODUCTS} for who in ("XLA", "ours")}
    for size, dim in STAGES:
        for inputs, outputs in ((dim, 4 * dim), (4 * dim, dim)):
            rates = _rates(batch, size, inputs, outputs)
            text = "; ".join(f"{who} " + " ".join(f"{rate:4.0f}" for rate in each) for who, each in rates.items())
            print(f"{size:>3} x {inputs:<5}to {outputs:<5}{text}", flush=True)
            for who, of in ratios.items():
                for name, rate, torch in zip(PRODUCTS, rates[who], rates["PyTorch"], strict=True):
                    of[name].append(rate / torch)
    means = {
        who: {name: round(statistics.geometric_mean(each), 3) for name, each in of.items()}
        for who, of in ratios.items()
    }
    print(json.dumps(means))


def _rates(batch: int, size: int, inputs: int, outputs: int) -> dict[str, list[float]]:
    """Returns the speeds of each product in 10^9 operations per second, by implementation."""
    import jax
    import jax.numpy as jnp
    import torch

    from focalnet_jax.ops.product import kernel_gradient, multiply

    pairs = (((inputs,), (inputs, outputs)), ((outputs,), (inputs, outputs)), ((inputs,), (outputs,)))
    rows, maps = (batch * size * size,), (batch, size, size)
    plain = (
        lambda x, kernel: x @ kernel,
        lambda cotangent, kernel: cotangent @ kernel.T,
        lambda x, cotangent: x.T @ cotangent,
    )
    ours = (
        lambda x, kernel: multiply(x, kernel, None),
        lambda cotangent, kernel: multiply(cotangent, kernel, None, transposed=True),
        lambda x, cotangent: kernel_gradient(x, cotangent, None),
    )
    rates: dict[str, list[float]] = {"XLA": [], "ours": [], "PyTorch": []}
    for pair, of_rows, of_maps in zip(pairs, plain, ours, strict=True):
        for who, function, places, ones in (
            ("XLA", _waiting(jax.jit(of_rows)), rows, jnp.ones),
            ("ours", _waiting(jax.jit(of_maps)), maps, jnp.ones),
            ("PyTorch", of_rows, rows, torch.ones),
        ):
            given = (ones(shape if len(shape) == 2 else places + shape) for shape in pair)
            rates[who].append(2e-9 * rows[0] * inputs * outputs / _best(function, *given))
    return rates


def _waiting(program: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given: program(*given).block_until_ready()


def _best(function: Callable[..., Any], *arguments: Any) -> float:
    function(*arguments)
    taken = []
    for _ in range(10):
        begun = time.perf_counter()
        function(*arguments)
        taken.append(time.perf_counter() - begun)
    return min(taken)


if __name__ == "__main__":
    run_command(main)
