"""What bounds a block with its gradients, stage by stage and chip by chip: python -m benchmarks.roofline [--compile].

  python -m benchmarks.roofline --model focalnet_base_lrf --batch 64 --chips v4,v5e,v5p,v6e,h100

Milliseconds of three bounds, each as if the other two cost nothing: the products at the chip's peak; the least that
must travel to and from its memory, had it room for all that lies between (a block's input twice, its output, their
gradients and the weights); and what its vector units do (taps of the depthwise kernels and their two gradients, GELUs,
gates). --compile adds the compiler's estimate of ours for TPUs, as benchmarks/tpu_cost.py makes it, and the share of
the largest bound in it. A chip is what JAX calls a device; of a v4, a core. The last line is a JSON list.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from focalnet_jax.command_line import load_config, one_line_errors, run_command
from focalnet_jax.errors import UserError

# Operations of `ops/gelu.py`, forward and computed again with its derivative.
_GELU = 13 + 20
_VECTOR = 4 * 1024  # of a TPU core in a cycle: four units, a register of 1024 numbers each
_H100 = (3.35e12, 33.5e12)  # bytes/s; multiply-adds/s outside its matrix units (NVIDIA's data sheet, SXM)
_BOUNDS = ("products", "memory", "vector")
TOPOLOGIES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


def work(model: Any, stage: int, size: int, batch: int) -> tuple[float, float, float]:
    """Of a block with its gradients: FLOPs of its products, least bytes moved, operations of vector units."""
    dim, sizes = model.dims[stage], model.kernel_sizes(stage)
    places, levels, hidden = batch * size * size, len(sizes), int(dim * model.mlp_ratio)
    weights = dim * (4 * dim + levels + 1) + 2 * dim * hidden
    taps = sum(k * k for k in sizes)
    # Forward, the input's gradient and the kernel's; and gates, which multiply and add once forward and twice back.
    vector = places * (dim * (3 * 2 * taps + levels * _GELU + 3 * 2 * (levels + 1)) + hidden * _GELU)
    # Weights are read twice in bfloat16, their gradients written in float32.
    return 3 * 2.0 * places * weights, 2.0 * 5 * places * dim + weights * (2 + 2 + 4), float(vector)


def rates(name: str) -> tuple[float, float, float]:
    """FLOP/s, bytes/s and vector operations/s of what JAX calls a device."""
    from benchmarks.tpu_cost import bandwidth
    from focalnet_jax.aot.topology import describe_devices
    from focalnet_jax.distributed.chips import CHIPS

    if name == "h100":
        return CHIPS[name].flops, *_H100
    devices, chip = describe_devices(TOPOLOGIES[name])
    return chip.flops, bandwidth(chip), _VECTOR * chip.clock * getattr(devices[0], "num_cores", 1)


def estimate(config: Any, name: str, stage: int, batch: int) -> float:
    """Seconds of ours by the compiler's estimate."""
    import jax
    import jax.numpy as jnp

    from benchmarks.tpu_cost import compile_for, cost, part
    from focalnet_jax.aot.topology import describe_devices
    from focalnet_jax.distributed.mesh import make_mesh

    devices, chip = describe_devices(TOPOLOGIES[name])
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, devices[:1])
    function, params, shape = part(config, mesh, stage, False)
    x = jax.ShapeDtypeStruct((batch, *shape), jnp.bfloat16)
    return cost(compile_for(function, (params, x, x), devices[0]), chip)["estimated_cycles"] / chip.clock


def main(arguments: list[str]) -> int:
    """Parses flags, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="focalnet_base_lrf")
    parser.add_argument("--batch", type=int, default=64, help="images of a device")
    parser.add_argument("--chips", default=",".join((*TOPOLOGIES, "h100")), help="separated by commas: %(default)s")
    parser.add_argument("--compile", action="store_true", help="ours beside it, for TPUs: takes minutes")
    one_line_errors(parser)
    flags, overrides = parser.parse_known_args(arguments)
    chips = flags.chips.split(",")
    if unknown := set(chips) - {*TOPOLOGIES, "h100"}:
        raise UserError(f"--chips {','.join(sorted(unknown))}: expected some of {','.join((*TOPOLOGIES, 'h100'))}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    from benchmarks.tpu_cost import map_size
    from focalnet_jax.training.setup import model_config

    jax.config.update("jax_platforms", "cpu")
    given = ["--config.data.path=none", f"--config.batch_size={flags.batch}", *overrides]
    config = load_config(f"configs/imagenet1k.py:{flags.model.removeprefix('focalnet_')}", given)
    model = model_config(config)
    results = []
    print(
        f"{'chip':<6}{'map':>12}"
        + "".join(f"{name:>10}" for name in (*_BOUNDS, *(("ours", "share") if flags.compile else ()))),
        flush=True,
    )
    for name in chips:
        limits = rates(name)
        for stage, dim in enumerate(model.dims):
            size = map_size(config, model, stage)
            much = work(model, stage, size, flags.batch)
            bounds = {bound: 1e3 * each / fast for bound, each, fast in zip(_BOUNDS, much, limits, strict=True)}
            figures = list(bounds.values())
            if flags.compile and name in TOPOLOGIES:
                ours = 1e3 * estimate(config, name, stage, flags.batch)
                figures += [ours, max(figures) / ours]
                bounds["ours"] = ours
            results.append({"chip": name, "size": size, "dim": dim} | bounds)
            print(f"{name:<6}{f'{size} x {dim}':>12}" + "".join(f"{figure:>10.2f}" for figure in figures), flush=True)
    print("milliseconds; ours is the compiler's estimate, not a measurement")
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    run_command(main)
