"""What a train step, a stage or a block costs on a TPU that is not here, by its compiler's own estimate.

  python -m benchmarks.tpu_cost --model focalnet_base_lrf --batch 64 --topology v5e:2x2
      [--stage N | --block N | --aggregation N] [--plain] [--config.KEY=VALUE ...]

One chip's part: --batch is the images of a chip. --aggregation is that of a block alone, in its own form and in XLA's.
With --plain the same of a plain Flax FocalNet and of a ConvNeXt of equal size, compiled in the same run. Kernels of our
own count by the bundles the compiler made of them, or by what they read and write where that takes longer; all else by
the cycles it writes beside every operation, loops as often as they run. How maps lie in memory on the way into a part
and out of it is the compiler's choice, as within a model, ours or plain. The last line is one JSON object. Needs
libtpu: pip install 'focalnet_jax[tpu]'. Whole steps take minutes.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/tpu_cost.py

from benchmarks.flags import make_parser, positive
from focalnet_jax.command_line import load_config, run_command
from focalnet_jax.errors import UserError

CATEGORIES = ("aggregation", "projections", "mlp", "norm", "embedding", "optimizer")
_BANDWIDTH = {"TPU v4": 1228e9, "TPU v5e": 819e9, "TPU v5p": 2765e9, "TPU v6e": 1640e9}  # bytes/s, Google's pages
_MOVES = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call")


def bandwidth(chip: Any) -> float:
    """Bytes/s of the memory of a chip, or of a core's half of it."""
    name, core, _ = chip.name.partition(" core")
    return _BANDWIDTH[name] / (2 if core else 1)


def category(instruction: Any) -> str:
    """By the scope the model gave it; a fusion goes by its own, which is its root's."""
    if instruction.operation.removesuffix("-start").removesuffix("-done").startswith(("all-", "reduce-sc", "coll")):
        return "collectives"
    named = re.search(r'op_name="([^"]*)"', instruction.rest)
    found = re.findall("|".join(CATEGORIES), named[1]) if named else []
    return found[-1] if found else "other"


def cost(compiled: Any, chip: Any) -> dict[str, Any]:
    """The figures of a compiled program."""
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


def map_size(config: Any, model: Any, number: int) -> int:
    """Rows of a stage's map, which counts from 0; `UserError` where there is no such stage or map."""
    size = config.data.image_size // model.patch_size // 2**number
    if number >= len(model.depths):
        raise UserError(f"stage {number + 1}: {config.model.name} has {len(model.depths)}")
    if size < 1:
        raise UserError(f"stage {number + 1} of {config.data.image_size} px has no map; expected larger images")
    return size


def compile_for(function: Callable[..., Any], arguments: Any, device: Any, part: bool = True) -> Any:
    """Compiles for one chip; arguments are shapes.

    How maps lie in memory is the compiler's choice, as within a model; a whole step is given what lies as in a run.
    """
    import jax
    from jax.experimental.layout import Format, Layout
    from jax.sharding import SingleDeviceSharding

    from focalnet_jax.aot import bundles

    bundles.forget()
    place = SingleDeviceSharding(device)
    layout = Format(Layout.AUTO, place) if part else place
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)
    compiling = jax.jit(function, in_shardings=layout, out_shardings=layout)
    return compiling.trace(*shapes).lower(lowering_platforms=("tpu",)).compile()


def gradients_of(module: Any, call: Callable[..., Any]) -> tuple[Callable[..., Any], Any]:
    """A function that computes output and gradients, of parameters and input, and the parameters' shapes."""
    import jax
    from flax import nnx

    graph, params = nnx.split(module)

    def function(params: Any, x: Any, cotangent: Any) -> Any:
        out, back = jax.vjp(lambda params, x: call(nnx.merge(graph, params), x), params, x)
        return out, back(cotangent)

    return function, params


def part(
    config: Any, mesh: Any, number: int, whole_stage: bool, platform: str = "tpu"
) -> tuple[Callable[..., Any], Any, tuple[int, ...]]:
    """Our stage or block in a platform's forms: function, parameters, and the shape of its input without B."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    from flax import nnx

    from focalnet_jax.model.blocks import Stage
    from focalnet_jax.model.precision import get_precision
    from focalnet_jax.ops.forms import FORMS, choose_form
    from focalnet_jax.training.setup import model_config

    model = model_config(config)
    size = map_size(config, model, number)
    forms = {option: choose_form(option, getattr(model, option), platform) for option in FORMS}
    depths = model.depths if whole_stage else (1,) * len(model.depths)
    model = dataclasses.replace(model, **forms, depths=depths)
    precision = get_precision(config.precision)

    def make() -> Stage:
        stage = Stage(model, number, precision=precision, rngs=nnx.Rngs(0))
        stage.downsample = None
        return stage

    rates = jnp.zeros(depths[number], jnp.float32)

    def call(stage: Stage, x: jax.Array) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return stage(x, rates)[0]

    function, params = gradients_of(nnx.eval_shape(make), call)
    return function, params, (size, size, model.dims[number])


def aggregation(config: Any, mesh: Any, number: int, batch: int, form: str, backward: bool) -> tuple[Any, Any]:
    """A block's context aggregation, forward or with all gradients: function and its arguments' shapes."""
    import jax
    import jax.numpy as jnp

    from focalnet_jax.ops.aggregation import aggregate_context
    from focalnet_jax.training.setup import model_config

    model = model_config(config)
    size, dim = map_size(config, model, number), model.dims[number]
    sizes = model.kernel_sizes(number)

    def shape(*lengths: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(lengths, jnp.bfloat16)

    def forward(*given: Any) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return aggregate_context(*given, form=form)

    def both(cotangent: jax.Array, *given: Any) -> Any:
        out, back = jax.vjp(forward, *given)
        return out, back(cotangent)

    context, gates = shape(batch, size, size, dim), shape(batch, size, size, len(sizes) + 1)
    given = (context, gates, [shape(k, k, 1, dim) for k in sizes], shape(dim))
    return (both, (context, *given)) if backward else (forward, given)


def plain_part(name: str, config: Any, number: int, whole_stage: bool) -> tuple[Callable[..., Any], Any]:
    """The same of a plain FocalNet or ConvNeXt."""
    from flax import nnx

    from benchmarks import plain_models
    from focalnet_jax.training.setup import model_config

    model = model_config(config)
    dim, depth = model.dims[number], model.depths[number] if whole_stage else 1
    if name == "convnext":
        make = partial(plain_models.ConvNextBlock, dim)
        depth = {2: 27}.get(number, 3) if whole_stage else 1
    else:
        make = partial(plain_models.FocalBlock, dim, model.kernel_sizes(number))
    blocks = nnx.eval_shape(lambda: nnx.List([make(rngs=nnx.Rngs(0)) for _ in range(depth)]))

    def call(blocks: Any, x: Any) -> Any:
        for block in blocks:
            x = block(x)
        return x

    return gradients_of(blocks, call)


def plain_step(name: str, config: Any, batch: int) -> tuple[Callable[..., Any], Any]:
    """A plain train step with AdamW, and its arguments' shapes."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from benchmarks import plain_models
    from focalnet_jax.training.setup import model_config

    model = model_config(config)
    block, depths = plain_models.ConvNextBlock, (3, 3, 27, 3)
    if name == "focalnet":
        sizes = model.kernel_sizes(0)
        block, depths = (lambda dim, rngs: plain_models.FocalBlock(dim, sizes, rngs)), model.depths
    net = nnx.eval_shape(lambda: plain_models.Net(block, model.dims, depths, model.num_classes, nnx.Rngs(0)))
    graph, params = nnx.split(net)
    optimizer = optax.adamw(1e-3, weight_decay=0.05)

    def step(params: Any, state: Any, images: jax.Array, labels: jax.Array) -> Any:
        def loss_of(params: Any) -> jax.Array:
            logits = nnx.merge(graph, params)(images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, gradients = jax.value_and_grad(loss_of)(params)
        with jax.named_scope("optimizer"):
            updates, state = optimizer.update(gradients, state, params)
            return loss, optax.apply_updates(params, updates), state

    size = config.data.image_size
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return step, (params, jax.eval_shape(optimizer.init, params), images, labels)


def measured(flags: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """All that is asked for, by name."""
    import jax
    import jax.numpy as jnp

    from focalnet_jax.aot import bundles
    from focalnet_jax.aot.compilation import lower_step
    from focalnet_jax.aot.topology import describe_devices
    from focalnet_jax.distributed.mesh import make_mesh

    devices, chip = describe_devices(flags.topology)
    given = ["--config.data.path=none", f"--config.batch_size={flags.batch}", *overrides]
    config = load_config(f"configs/imagenet1k.py:{flags.model.removeprefix('focalnet_')}", given)
    if any(size > 1 for size in config.mesh.values()):
        raise UserError(
            f"mesh {dict(config.mesh)}: this is one chip's part; python -m focalnet_jax.aot compiles for many"
        )
    if config.precision != "bfloat16":
        raise UserError(f"precision is {config.precision}; expected bfloat16, which TPUs train in")
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, devices[:1])
    number = flags.stage or flags.block
    others = ("focalnet", "convnext") if flags.plain else ()
    results: dict[str, Any] = {}

    def told(name: str, compile_it: Callable[[], Any]) -> None:
        begun = time.perf_counter()
        results[name] = cost(compile_it(), chip) | {"compile_seconds": round(time.perf_counter() - begun, 1)}
        figures = results[name]
        print(
            f"{name:<16} {figures['estimated_cycles'] / 1e6:8.2f} M cycles, of which kernels of our own "
            f"{figures['kernel_cycles'] / 1e6:.2f}; temporaries {figures['temp_bytes'] / 1e9:.2f} GB, moved "
            f"{figures['hbm_bytes'] / 1e9:.1f} GB; compiled in {figures['compile_seconds']:.0f} s",
            flush=True,
        )
        for of, cycles in figures["by_category"].items():
            print(f"{'':<16} {cycles / 1e6:8.2f} {of}", flush=True)

    if flags.aggregation:
        for form in ("mosaic", "xla"):
            for name, backward in ((f"{form} forward", False), (f"{form} gradients", True)):
                asked = aggregation(config, mesh, flags.aggregation - 1, flags.batch, form, backward)
                told(name, lambda asked=asked: compile_for(*asked, devices[0]))
        return {
            "model": flags.model,
            "batch": flags.batch,
            "chip": chip.name,
            **results.pop("mosaic gradients"),
            **results,
        }
    if number:
        function, params, shape = part(config, mesh, number - 1, flags.stage is not None)
        x = jax.ShapeDtypeStruct((flags.batch, *shape), jnp.bfloat16)
        told("ours", lambda: compile_for(function, (params, x, x), devices[0]))
        for name in others:
            plain = plain_part(name, config, number - 1, flags.stage is not None)
            told(f"plain {name}", lambda plain=plain: compile_for(plain[0], (plain[1], x, x), devices[0]))
    else:
        bundles.forget()
        told("ours", lambda: lower_step(config, mesh, "train").compile())
        for name in others:
            step, arguments = plain_step(name, config, flags.batch)
            told(f"plain {name}", lambda given=(step, arguments): compile_for(*given, devices[0], part=False))
    return {"model": flags.model, "batch": flags.batch, "chip": chip.name, **results.pop("ours"), **results}


def main(arguments: list[str]) -> int:
    """Parses flags, compiles and prints."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="focalnet_base_lrf")
    parser.add_argument("--batch", type=positive, default=64, help="images of a chip")
    parser.add_argument("--topology", default="v5e:2x2")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--stage", type=int, choices=range(1, 5), help="forward and backward of a whole stage")
    which.add_argument("--block", type=int, choices=range(1, 5), help="of one block of that stage")
    which.add_argument("--aggregation", type=int, choices=range(1, 5), help="of a block of that stage, alone")
    parser.add_argument("--plain", action="store_true", help="a plain Flax FocalNet and ConvNeXt beside it")
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
