"""Compiles every block of the released variants, with its gradients, for TPUs: python -m benchmarks.tpu_variants.

  python -m benchmarks.tpu_variants --chips v5e,v6e,v5p,v4 --models large_fl4,huge_fl4 --batch 8

Blocks that variants share are compiled once. Prints, for each block and the map size of 224 px images, the estimated
cycles, the fraction of them in this package's kernels, and the number of these kernels (0 if XLA computes the block).
Exits with 1 if a block does not compile. The last line is a JSON list. Needs libtpu: pip install 'focalnet_jax[tpu]'.
A block takes 0.5 to 2 minutes, all blocks about an hour per chip.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/tpu_variants.py

from benchmarks.flags import images, load_recipe, make_parser
from benchmarks.roofline import TOPOLOGIES
from benchmarks.tpu_cost import compile_for, cost
from benchmarks.tpu_parts import map_size, part
from focalnet_jax.errors import UserError
from focalnet_jax.programs.run_command import run_command

# Options that may differ between blocks with the same width, kernels and map size.
_FLAGS = ("mlp_ratio", "use_postln", "use_layerscale", "use_postln_in_modulation", "normalize_modulator")


def blocks(models: list[str], batch: int) -> Iterator[tuple[str, int, int, Any]]:
    """Yields variant, stage (from 0), rows of the map and config of each distinct block."""
    from focalnet_jax.config import model_config

    seen = set()
    for name in models:
        config = load_recipe(name, [f"--config.batch_size={batch}"])
        model = model_config(config)
        for stage, dim in enumerate(model.dims):
            size = map_size(config, model, stage)
            block = (dim, size, model.kernel_sizes(stage), *(getattr(model, flag) for flag in _FLAGS))
            if block not in seen:
                seen.add(block)
                yield name, stage, size, config


def compiled(config: Any, stage: int, batch: int, topology: str) -> dict[str, Any]:
    """Returns the cost of a block, or the beginning of the compiler's error."""
    import jax
    import jax.numpy as jnp

    from focalnet_jax.aot.topology import describe_devices
    from focalnet_jax.distributed.mesh import make_mesh

    devices, chip = describe_devices(topology)
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, devices[:1])
    function, params, shape = part(config, mesh, stage, False)
    x = jax.ShapeDtypeStruct((batch, *shape), jnp.bfloat16)
    begun = time.perf_counter()
    try:
        program = compile_for(function, (params, x, x), devices[0])
    except Exception as error:  # any error of the compiler is the result
        return {"dim": shape[-1], "error": " ".join(str(error).split())[:300]}
    figures = cost(program, chip)
    return {
        "dim": shape[-1],
        "estimated_cycles": figures["estimated_cycles"],
        "kernel_cycles": figures["kernel_cycles"],
        "kernels": program.as_text().count('custom_call_target="tpu_custom_call"'),
        "compile_seconds": round(time.perf_counter() - begun, 1),
    }


def main(arguments: list[str]) -> int:
    """Compiles all blocks for all chips and prints their costs."""
    from focalnet_jax import list_models

    parser = make_parser(__doc__)
    parser.add_argument("--chips", default=",".join(TOPOLOGIES), help="separated by commas (default: %(default)s)")
    parser.add_argument("--models", help="separated by commas (default: all released variants)")
    parser.add_argument("--batch", type=images, default=8, help="images per chip")
    flags = parser.parse_args(arguments)
    chips = flags.chips.split(",")
    if unknown := set(chips) - set(TOPOLOGIES):
        raise UserError(f"--chips {','.join(sorted(unknown))}: expected one or more of {','.join(TOPOLOGIES)}")
    models = list_models() if flags.models is None else flags.models.split(",")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    jax.config.update("jax_platforms", "cpu")
    results: list[dict[str, Any]] = []
    for chip in chips:
        for name, stage, size, config in blocks(models, flags.batch):
            figures = compiled(config, stage, flags.batch, TOPOLOGIES[chip])
            results.append({"chip": chip, "model": name, "stage": stage + 1, "size": size} | figures)
            if "error" in figures:
                text = f"did not compile: {figures['error']}"
            else:
                share = figures["kernel_cycles"] / figures["estimated_cycles"]
                text = (
                    f"{figures['estimated_cycles'] / 1e6:8.3f} M cycles, {share:4.0%} in {figures['kernels']} "
                    f"focalnet_jax kernels; compiled in {figures['compile_seconds']:.0f} s"
                )
            place = f"{size} x {figures['dim']}"
            print(f"{chip:<4} {name:<20} {stage + 1} {place:>10} {text}", flush=True)
    print("compiler's estimates, not measurements")
    print(json.dumps(results))
    return int(any("error" in figures for figures in results))


if __name__ == "__main__":
    run_command(main)
