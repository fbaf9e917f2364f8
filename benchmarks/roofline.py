"""Prints lower bounds on the time of a block with its gradients: python -m benchmarks.roofline [--compile].

  python -m benchmarks.roofline --model focalnet_base_lrf --batch 64 --chips v4,v5e,v5p,v6e,h100
  python -m benchmarks.roofline --model focalnet_tiny_lrf --batch 8 --chips cpu --compile

Prints three bounds in milliseconds for each stage and chip. Each bound assumes that the other two cost nothing:
- products: the matrix products at the chip's peak;
- memory: the least memory traffic, if the chip had room for all intermediate arrays (a block's input twice, its output,
  their gradients and the weights);
- vector: the work of the vector units (taps of the depthwise kernels and their two gradients, GELUs, gates).

--compile adds the time of our block and the largest bound divided by this time. For TPUs the time is the compiler's
estimate, as in benchmarks/tpu_cost.py. A chip is one JAX device; for a v4, a core.

`cpu` is the CPU of this machine, in float32: its peak rates are measured, and with --compile also the time of our
block. A CPU computes products and everything else with the same units, so the sum of products and vector is one bound.

The last line is a JSON list. TPUs need libtpu: pip install 'focalnet_jax[tpu]'.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/roofline.py

from benchmarks.flags import check_overrides, images, load_recipe, make_parser
from focalnet_jax.errors import UserError
from focalnet_jax.programs.run_command import run_command

# Operations of `ops/gelu.py`: forward, and recomputed with the derivative.
_GELU = 13 + 20
_REGISTER = 1024  # numbers that a vector unit processes per cycle
# Vector units per core: the largest number of vector operations that the compiler issues in one bundle.
_UNITS = {"v4": 2, "v5e": 4, "v5p": 4, "v6e": 4}
_TAP = {"v6e": 1.5}  # operations per tap, 2 on other chips: a v6e multiplies twice as many bfloat16 values
_H100 = (3.35e12, 33.5e12)  # bytes/s; multiply-adds/s outside its matrix units (NVIDIA's data sheet, SXM)
_BOUNDS = ("products", "memory", "vector")
TOPOLOGIES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


def work(
    model: Any, stage: int, size: int, batch: int, itemsize: int = 2, tap: float = 2.0
) -> tuple[float, float, float]:
    """Returns a block's work with its gradients: FLOPs of products, least bytes moved, operations of vector units."""
    dim, sizes = model.dims[stage], model.kernel_sizes(stage)
    places, levels, hidden = batch * size * size, len(sizes), int(dim * model.mlp_ratio)
    weights = dim * (4 * dim + levels + 1) + 2 * dim * hidden
    taps = sum(k * k for k in sizes)
    # Taps: forward, and the gradients of input and kernel. Gates: a multiply-add forward, and two backward.
    vector = places * (dim * (3 * tap * taps + levels * _GELU + 3 * 2 * (levels + 1)) + hidden * _GELU)
    # Weights are read twice in the compute dtype; their gradients are written in float32.
    moved = itemsize * 5.0 * places * dim + weights * (2 * itemsize + 4)
    return 3 * 2.0 * places * weights, moved, float(vector)


def rates(name: str) -> tuple[float, float, float]:
    """Returns FLOP/s, bytes/s and vector operations/s of one JAX device."""
    from benchmarks.tpu_cost import bandwidth
    from focalnet_jax.aot.topology import describe_devices
    from focalnet_jax.distributed.chips import CHIPS

    if name == "h100":
        return CHIPS[name].flops, *_H100
    if name == "cpu":
        return _cpu_rates()
    devices, chip = describe_devices(TOPOLOGIES[name])
    return chip.flops, bandwidth(chip), _UNITS[name] * _REGISTER * chip.clock * getattr(devices[0], "num_cores", 1)


def _cpu_rates() -> tuple[float, float, float]:
    """Returns the rates of this machine, like `rates`, measured by a large matrix product and a large copy.

    The rate of vector operations is the rate of the product, because the same units compute both.
    """
    import jax
    import jax.numpy as jnp

    side, length = 2048, 2**26
    matrix, numbers = jnp.ones((side, side)), jnp.ones(length)
    flops = 2 * side**3 / _seconds(jax.jit(jnp.matmul), matrix, matrix)
    return flops, 2 * 4 * length / _seconds(jax.jit(lambda x: x + 1), numbers), flops


def _seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """Returns the seconds of a call, the shortest of 12."""
    import jax

    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(12):
        begun = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - begun)
    return min(times)


def _timed(config: Any, name: str, stage: int, batch: int) -> float:
    """Returns the seconds of our block on this machine's CPU."""
    del name
    import jax
    import jax.numpy as jnp

    from benchmarks.tpu_parts import part
    from focalnet_jax.distributed.mesh import compiler_options, make_mesh

    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    function, params, shape = part(config, mesh, stage, False, "cpu")
    keys = iter(jax.random.split(jax.random.key(0), 100))
    params = jax.tree.map(lambda leaf: 0.02 * jax.random.normal(next(keys), leaf.shape), params)
    x = jax.random.normal(next(keys), (batch, *shape), jnp.float32)
    return _seconds(jax.jit(function, compiler_options=compiler_options(mesh)), params, x, x)


def estimate(config: Any, name: str, stage: int, batch: int) -> float:
    """Returns the seconds of our block, estimated by the compiler."""
    import jax
    import jax.numpy as jnp

    from benchmarks.tpu_cost import compile_for, cost
    from benchmarks.tpu_parts import part
    from focalnet_jax.aot.topology import describe_devices
    from focalnet_jax.distributed.mesh import make_mesh

    devices, chip = describe_devices(TOPOLOGIES[name])
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, devices[:1])
    function, params, shape = part(config, mesh, stage, False)
    x = jax.ShapeDtypeStruct((batch, *shape), jnp.bfloat16)
    return cost(compile_for(function, (params, x, x), devices[0]), chip)["estimated_cycles"] / chip.clock


def main(arguments: list[str]) -> int:
    """Prints the table and a JSON list."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="focalnet_base_lrf")
    parser.add_argument("--batch", type=images, default=64, help="images per device")
    parser.add_argument(
        "--chips", default=",".join((*TOPOLOGIES, "h100")), help="separated by commas (default: %(default)s)"
    )
    parser.add_argument("--compile", action="store_true", help="add the time of our block (TPUs, cpu); takes minutes")
    flags, overrides = parser.parse_known_args(arguments)
    check_overrides(
        overrides,
        batch_size="--batch sets the images per device",
        precision="a chip computes in bfloat16, a cpu in float32",
        mesh="the bounds are for one device",
    )
    chips = flags.chips.split(",")
    if unknown := set(chips) - {*TOPOLOGIES, "h100", "cpu"}:
        raise UserError(f"--chips {','.join(sorted(unknown))}: expected one or more of {','.join(TOPOLOGIES)},h100,cpu")
    if flags.compile and chips == ["h100"]:
        raise UserError("--compile: no compiler estimates the time of an H100; leave it out")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    from benchmarks.tpu_parts import map_size
    from focalnet_jax.config import model_config

    jax.config.update("jax_platforms", "cpu")
    given = [f"--config.batch_size={flags.batch}", *overrides]
    config = load_recipe(flags.model, given)
    model = model_config(config)
    results = []
    print(
        f"{'chip':<6}{'map':>12}"
        + "".join(f"{name:>10}" for name in (*_BOUNDS, *(("ours", "share") if flags.compile else ()))),
        flush=True,
    )
    for name in chips:
        limits = rates(name)
        precision = ["--config.precision=float32"] if name == "cpu" else []
        of_chip = load_recipe(flags.model, [*given, *precision])
        for stage, dim in enumerate(model.dims):
            size = map_size(config, model, stage)
            much = work(model, stage, size, flags.batch, 4 if name == "cpu" else 2, _TAP.get(name, 2.0))
            bounds = {bound: 1e3 * each / fast for bound, each, fast in zip(_BOUNDS, much, limits, strict=True)}
            figures = list(bounds.values())
            if flags.compile and name != "h100":
                ours = 1e3 * (_timed if name == "cpu" else estimate)(of_chip, name, stage, flags.batch)
                products, memory, vector = figures
                # A CPU computes both with the same units, one after the other.
                least = max(products + vector, memory) if name == "cpu" else max(figures)
                figures += [ours, least / ours]
                bounds["ours"] = ours
            results.append({"chip": name, "size": size, "dim": dim} | bounds)
            print(f"{name:<6}{f'{size} x {dim}':>12}" + "".join(f"{figure:>10.2f}" for figure in figures), flush=True)
    print("milliseconds; ours is the compiler's estimate, but measured on a cpu")
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    run_command(main)
