"""A CPU's products of an MLP, float32, as XLA and as PyTorch compute them: python -m benchmarks.products [--batch 8].

Of each stage of FocalNet-B: the MLP's two layers, their inputs' gradients and their weights', and these as the model
computes them (ops/product.py). 10^9 operations a second, the best of ten. Needs torch (make parity installs it into
.venv-parity). The last line is one JSON object: geometric means of XLA's over PyTorch's.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/products.py

from benchmarks.cpu import keep_memory
from benchmarks.flags import make_parser, positive
from benchmarks.side_by_side import need
from focalnet_jax.command_line import run_command

STAGES = ((56, 128), (28, 256), (14, 512), (7, 1024))
PRODUCTS = ("outputs", "inputs' gradients", "weights' gradients", "weights' gradients, ours")


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--batch", type=positive, default=8)
    batch = parser.parse_args(arguments).batch
    need("torch")
    os.environ["JAX_PLATFORMS"] = "cpu"
    keep_memory()
    ratios: dict[str, list[float]] = {name: [] for name in PRODUCTS}
    for size, dim in STAGES:
        for inputs, outputs in ((dim, 4 * dim), (4 * dim, dim)):
            shape = (batch * size * size, inputs, outputs)
            rates = dict(zip(("XLA", "PyTorch"), zip(*_rates(*shape), strict=True), strict=True))
            told = "; ".join(f"{who} " + " ".join(f"{rate:4.0f}" for rate in each) for who, each in rates.items())
            print(f"{size:>3} x {inputs:<5}to {outputs:<5}{told}", flush=True)
            for name, xla, torch in zip(PRODUCTS, *rates.values(), strict=True):
                ratios[name].append(xla / torch)
    print(json.dumps({name: round(statistics.geometric_mean(each), 3) for name, each in ratios.items()}))


def _rates(rows: int, inputs: int, outputs: int) -> Iterator[tuple[float, float]]:
    """XLA's and PyTorch's, of each of the products."""
    import jax
    import jax.numpy as jnp
    import torch

    x, weights, rising = (rows, inputs), (inputs, outputs), (rows, outputs)
    operations = 2e-9 * rows * inputs * outputs
    for form, one, other in (("ij,jk", x, weights), ("ik,jk", rising, weights), ("ij,ik", x, rising), ("", x, rising)):
        program = jax.jit(partial(jnp.einsum, form) if form else _weights_gradient)
        ours = _best(lambda a, b, f=program: f(a, b).block_until_ready(), jnp.ones(one), jnp.ones(other))
        left, right = (torch.ones(shape) for shape in (one, other))
        turned = {"ij,jk": (left, right), "ik,jk": (left, right.T)}.get(form, (left.T, right))
        yield operations / ours, operations / _best(torch.matmul, *turned)


def _weights_gradient(x: Any, rising: Any) -> Any:
    import jax.numpy as jnp

    from focalnet_jax.ops.product import gradients

    return gradients(None, (x, jnp.zeros((x.shape[-1], rising.shape[-1]))), rising)[1]


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
