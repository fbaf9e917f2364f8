"""Stages, blocks and aggregations of our and of plain models, which benchmarks compile for TPUs.

Each part consists of a function and the shapes of its arguments. Nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from focalnet_jax.errors import UserError


def map_size(config: Any, model: Any, number: int) -> int:
    """Returns the number of rows of the map of stage `number`, counted from 0.

    Raises:
      UserError: the model has no such stage, or the images are too small for it.
    """
    size = config.data.image_size // model.patch_size // 2**number
    if number >= len(model.depths):
        raise UserError(f"stage {number + 1}: {config.model.name} has {len(model.depths)} stages")
    if size < 1:
        raise UserError(f"stage {number + 1} of {config.data.image_size} px has no map; expected larger images")
    return size


def gradients_of(module: Any, call: Callable[..., Any]) -> tuple[Callable[..., Any], Any]:
    """Returns a function from parameters and input to output and gradients, and the shapes of the parameters."""
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
    """Returns the function, parameter shapes and input shape (without B) of our stage or block on a platform."""
    import dataclasses

    import jax
    import jax.numpy as jnp
    from flax import nnx

    from focalnet_jax.config import model_config
    from focalnet_jax.model.blocks import Stage
    from focalnet_jax.model.precision import get_precision
    from focalnet_jax.ops.compute import choose_compute

    model = model_config(config)
    size = map_size(config, model, number)
    depths = model.depths if whole_stage else (1,) * len(model.depths)
    model = dataclasses.replace(model, depths=depths)
    precision = get_precision(config.precision)
    compute = choose_compute(
        precision.dtype, precision.matmul, platform, aggregation=model.aggregation, pointwise=model.pointwise
    )

    def make() -> Stage:
        stage = Stage(model, number, compute=compute, rngs=nnx.Rngs(0))
        stage.downsample = None
        return stage

    rates = jnp.zeros(depths[number], jnp.float32)

    def call(stage: Stage, x: jax.Array) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return stage(x, rates)[0]

    function, params = gradients_of(nnx.eval_shape(make), call)
    return function, params, (size, size, model.dims[number])


def aggregation(
    config: Any, mesh: Any, number: int, batch: int, implementation: str, backward: bool
) -> tuple[Any, Any]:
    """Returns the function and argument shapes of a block's context aggregation, forward or with all gradients."""
    import jax
    import jax.numpy as jnp

    from focalnet_jax.config import model_config
    from focalnet_jax.ops.aggregation import aggregate_context

    model = model_config(config)
    size, dim = map_size(config, model, number), model.dims[number]
    sizes = model.kernel_sizes(number)

    def shape(*lengths: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(lengths, jnp.bfloat16)

    def forward(*given: Any) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), jax.named_scope("aggregation"):
            return aggregate_context(*given, implementation=implementation)

    def both(cotangent: jax.Array, *given: Any) -> Any:
        out, back = jax.vjp(forward, *given)
        return out, back(cotangent)

    context, gates = shape(batch, size, size, dim), shape(batch, size, size, len(sizes) + 1)
    given = (context, gates, [shape(k, k, 1, dim) for k in sizes], shape(dim))
    return (both, (context, *given)) if backward else (forward, given)


def check_released(flag: str, model: Any) -> None:
    """Raises `UserError` if the model is ablated, because --plain and --aggregation need a released model."""
    from focalnet_jax.model.variants import ABLATIONS

    if ablated := [f"{option}=False" for option in ABLATIONS if not getattr(model, option)]:
        settings = ", ".join(ablated)
        raise UserError(
            f"{flag} works only for released models, but this config sets {settings}: remove these settings, or leave "
            f"{flag} out"
        )


def _convnext_depth(depth: int) -> int:
    """Returns the number of ConvNeXt blocks with the MACs of `depth` FocalNet blocks, of which 2 cost as much as 3."""
    return 3 * depth // 2


def plain_part(name: str, config: Any, number: int, whole_stage: bool) -> tuple[Callable[..., Any], Any]:
    """Returns the function and parameter shapes of a stage or block of a plain FocalNet or ConvNeXt."""
    from flax import nnx

    from focalnet_jax.config import model_config

    model = model_config(config)
    block, depths = _plain(name, model)
    count = depths[number] if whole_stage else 1
    blocks = nnx.eval_shape(lambda: nnx.List([block(model, number, rngs=nnx.Rngs(0)) for _ in range(count)]))

    def call(blocks: Any, x: Any) -> Any:
        for block in blocks:
            x = block(x)
        return x

    return gradients_of(blocks, call)


def _plain(name: str, model: Any) -> tuple[Any, list[int]]:
    """Returns the block class of a plain model, and the number of blocks in each stage."""
    from benchmarks import plain_models

    if name == "focalnet":
        return plain_models.FocalBlock, list(model.depths)
    return plain_models.ConvNextBlock, [_convnext_depth(depth) for depth in model.depths]


def plain_step(name: str, config: Any, batch: int) -> tuple[Callable[..., Any], Any]:
    """Returns a train step of a plain model with AdamW, and the shapes of its arguments."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from benchmarks import plain_models
    from focalnet_jax.config import model_config

    model = model_config(config)
    block, depths = _plain(name, model)
    overlapping = name == "focalnet" and model.use_conv_embed
    net = nnx.eval_shape(lambda: plain_models.Net(block, model, depths, overlapping, nnx.Rngs(0)))
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
