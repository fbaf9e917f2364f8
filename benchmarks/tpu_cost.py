"""Prints the compiler's estimate of the cost of a train step, a stage or a block, for a TPU that is not available.

  python -m benchmarks.tpu_cost --model focalnet_base_lrf --batch 64 --topology v5e:2x2
      [--stage N | --block N | --aggregation N] [--plain] [--config.KEY=VALUE ...]

Everything is for one chip; --batch is the number of images per chip. --aggregation compiles only the aggregation of a
block, in our implementation and in XLA's. --plain also compiles a plain Flax FocalNet and a ConvNeXt of equal size.

The cycles of this package's kernels are those of their instruction bundles, or of the bytes that they read and write if
that takes longer. The cycles of all other operations are those that the compiler writes next to them, times the loop
counts. For stages, blocks and aggregations, the compiler chooses the memory layout of inputs and outputs, as inside a
model. The last line is one JSON object. Needs libtpu: pip install 'focalnet_jax[tpu]'. Whole steps take minutes.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/tpu_cost.py

from benchmarks.flags import check_overrides, images, load_recipe, make_parser
from benchmarks.tpu_parts import aggregation, check_released, part, plain_part, plain_step
from focalnet_jax.aot.ledger import category
from focalnet_jax.errors import UserError
from focalnet_jax.programs.run_command import run_command

_BANDWIDTH = {"TPU v4": 1228e9, "TPU v5e": 819e9, "TPU v5p": 2765e9, "TPU v6e": 1640e9}  # bytes/s, Google's pages
_MOVES = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call")


def bandwidth(chip: Any) -> float:
    """Returns the memory bandwidth of a chip in bytes/s, or half of it for a core."""
    name, core, _ = chip.name.partition(" core")
    return _BANDWIDTH[name] / (2 if core else 1)


def cost(compiled: Any, chip: Any) -> dict[str, Any]:
    """Returns the estimated cycles, temporary memory and memory traffic of a compiled program."""
    from focalnet_jax.aot import bundles
    from focalnet_jax.aot.program import Program, sizes

    program = Program(compiled.as_text())
    types = {line.name: line.type for lines in program.computations.values() for line in lines}
    by_category: collections.Counter[str] = collections.Counter()
    kernels = moved = 0
    for instruction, times, fused in program.run():
        if fused or instruction.operation in _MOVES:
            continue
        touched = sum(sizes(instruction.type)) + sum(sum(sizes(types.get(name, ""))) for name in instruction.operands())
        moved += times * touched
        if instruction.own:
            waiting = touched / bandwidth(chip) * chip.clock
            cycles = round(max(bundles.kernel_cycles(instruction.name), waiting))
            kernels += times * cycles
        else:
            cycles = instruction.cycles() or 0
        by_category[category(instruction)] += times * cycles
    total = by_category.total()
    return {
        "estimated_cycles": total,
        "xla_cycles": total - kernels,
        "kernel_cycles": kernels,
        "by_category": dict(by_category.most_common()),
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "hbm_bytes": moved,
    }


def compile_for(function: Callable[..., Any], arguments: Any, device: Any, part: bool = True) -> Any:
    """Returns the program for one chip, compiled for arguments of the shapes in `arguments`.

    If `part`, the compiler chooses the memory layout of arguments and results, as inside a model. Otherwise they have
    the default layout, as in a whole step of a run.

    Raises:
      DoesNotFitError: the program needs more memory than the chip has.
    """
    import jax
    from jax.experimental.layout import Format, Layout
    from jax.sharding import SingleDeviceSharding

    from focalnet_jax.aot import bundles
    from focalnet_jax.aot.compilation import compile_fitting

    bundles.forget()
    place = SingleDeviceSharding(device)
    layout = Format(Layout.AUTO, place) if part else place
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)
    compiling = jax.jit(function, in_shardings=layout, out_shardings=layout)
    return compile_fitting(compiling.trace(*shapes).lower(lowering_platforms=("tpu",)))


def measured(flags: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """Returns the costs of our program, and by name those of the programs to compare with.

    The latter are the implementations of an aggregation with --aggregation, and the plain models with --plain. The cost
    of such a program is None if it does not fit the chip.

    Raises:
      UserError: the arguments are invalid, or our program does not fit the chip.
    """
    from focalnet_jax.aot import bundles
    from focalnet_jax.aot.compilation import DoesNotFitError
    from focalnet_jax.aot.topology import describe_devices
    from focalnet_jax.config import model_config
    from focalnet_jax.distributed.mesh import make_mesh

    config = recipe(flags, overrides)
    model = model_config(config)
    for flag in ("--plain",) * flags.plain + ("--aggregation",) * bool(flags.aggregation):
        check_released(flag, model)
    devices, chip = describe_devices(flags.topology)
    mesh = make_mesh(config.mesh, devices[:1])
    results: dict[str, Any] = {}
    bundles.forget()
    for name, compile_it in programs(flags, config, mesh, devices[0]).items():
        begun = time.perf_counter()
        try:
            compiled = compile_it()
        except DoesNotFitError as error:
            if not name.startswith(("plain", "xla")):
                raise UserError(f"{name}, --batch {flags.batch}: {error}") from error
            results[name] = None
            print(f"{name:<16} {error}", flush=True)
            continue
        results[name] = cost(compiled, chip) | {"compile_seconds": round(time.perf_counter() - begun, 1)}
        print_cost(name, results[name])
    first = results.pop("mosaic gradients" if flags.aggregation else "ours")
    return {"model": flags.model, "batch": flags.batch, "chip": chip.name, **first, **results}


def recipe(flags: argparse.Namespace, overrides: list[str]) -> Any:
    """Returns the config of the ImageNet-1K recipe for one chip.

    Raises:
      UserError: the flags contradict each other, or an override does not work for one chip and bfloat16.
    """
    check_overrides(overrides, batch_size="--batch sets the images per chip")
    if flags.aggregation:
        if flags.plain:
            raise UserError(
                "--plain with --aggregation: --aggregation always includes XLA's implementation; leave --plain out"
            )
        check_overrides(overrides, model__aggregation="--aggregation compiles both implementations")
    config = load_recipe(flags.model, [f"--config.batch_size={flags.batch}", *overrides])
    if any(size not in (1, -1) for size in config.mesh.values()):
        raise UserError(
            f"mesh {dict(config.mesh)}: only one chip is supported here; use python -m focalnet_jax.aot for several"
        )
    if config.precision != "bfloat16":
        raise UserError(f"--config.precision={config.precision}: expected bfloat16, in which TPUs train; leave it out")
    return config


def programs(flags: argparse.Namespace, config: Any, mesh: Any, device: Any) -> dict[str, Callable[[], Any]]:
    """Returns functions that compile the programs, by name."""
    import jax
    import jax.numpy as jnp

    from focalnet_jax.aot.compilation import compile_fitting, lower_step

    if flags.aggregation:
        asked = partial(aggregation, config, mesh, flags.aggregation - 1, flags.batch)
        ways = {"forward": False, "gradients": True}
        return {
            f"{name} {way}": lambda name=name, backward=backward: compile_for(*asked(name, backward), device)
            for name in ("mosaic", "xla")
            for way, backward in ways.items()
        }
    others = ("focalnet", "convnext") if flags.plain else ()
    if not (number := flags.stage or flags.block):
        steps = {
            f"plain {name}": lambda name=name: compile_for(*plain_step(name, config, flags.batch), device, part=False)
            for name in others
        }
        return {"ours": lambda: compile_fitting(lower_step(config, mesh, "train")), **steps}
    which = number - 1, flags.stage is not None
    function, params, shape = part(config, mesh, *which)
    x = jax.ShapeDtypeStruct((flags.batch, *shape), jnp.bfloat16)

    def plain(name: str) -> Any:
        function, params = plain_part(name, config, *which)
        return compile_for(function, (params, x, x), device)

    return {
        "ours": lambda: compile_for(function, (params, x, x), device),
        **{f"plain {name}": partial(plain, name) for name in others},
    }


def print_cost(name: str, figures: dict[str, Any]) -> None:
    """Prints the cost of a program, in total and by category."""
    print(
        f"{name:<16} {figures['estimated_cycles'] / 1e6:8.2f} M cycles, of which "
        f"{figures['kernel_cycles'] / 1e6:.2f} in focalnet_jax kernels; {figures['temp_bytes'] / 1e9:.2f} GB temporary "
        f"memory, {figures['hbm_bytes'] / 1e9:.1f} GB memory traffic; compiled in {figures['compile_seconds']:.0f} s",
        flush=True,
    )
    for of, cycles in figures["by_category"].items():
        print(f"{'':<16} {cycles / 1e6:8.2f} {of}", flush=True)


def main(arguments: list[str]) -> int:
    """Compiles the requested programs and prints their costs."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="focalnet_base_lrf")
    parser.add_argument("--batch", type=images, default=64, help="images per chip")
    parser.add_argument("--topology", default="v5e:2x2")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--stage", type=int, choices=range(1, 5), help="forward and backward pass of a whole stage")
    which.add_argument(
        "--block", type=int, choices=range(1, 5), help="forward and backward pass of one block of this stage"
    )
    which.add_argument(
        "--aggregation", type=int, choices=range(1, 5), help="only the aggregation of a block, ours and XLA's"
    )
    parser.add_argument("--plain", action="store_true", help="compare with a plain Flax FocalNet and ConvNeXt")
    flags, overrides = parser.parse_known_args(arguments)
    if not flags.topology.startswith("v"):
        raise UserError(f"--topology {flags.topology}: expected a TPU such as v5e:2x2")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    jax.config.update("jax_platforms", "cpu")
    result = measured(flags, overrides)
    print("compiler's estimate, not a measurement")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    run_command(main)
