"""Focal blocks and patch embeddings for TPUs, in kernels that each compute several layers (ops/pointwise.py).

One kernel computes all layers of a block before the context aggregation; a second kernel computes all layers after it.
The layers are those of model/modulation.py and model/blocks.py: change both implementations together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from focalnet_jax.distributed.activations import allows_kernels, by_example
from focalnet_jax.ops.dropout import drop_path
from focalnet_jax.ops.mosaic import fast_memory
from focalnet_jax.ops.mosaic.layers import Layers, Weights
from focalnet_jax.ops.normalization import EPSILON
from focalnet_jax.ops.pointwise import run_layers, suits, supports
from focalnet_jax.ops.product import conv_without_bias
from focalnet_jax.ops.rows import activate, layer_norm, linear

_SHARE = 0.8  # fraction of fast memory that a kernel may use
_norm = partial(layer_norm, epsilon=EPSILON)


def focal_block(block: Any, x: jax.Array, drop_path_rate: jax.Array, keys: Sequence[jax.Array | None]) -> jax.Array:
    """Returns the output of a block, `[B, H, W, C]`.

    The block is computed by the kernels if they support it, otherwise layer by layer.

    Args:
      block: a `model.blocks.FocalBlock`.
      x: input of the block, `[B, H, W, C]`.
      drop_path_rate: rate of stochastic depth, a scalar.
      keys: four entries, each PRNG keys `[B]` or None, for the modulation's dropout, the modulation's stochastic depth,
        the MLP's dropout and the MLP's stochastic depth.
    """
    if not (computes(block, drops=keys[0] is not None) and allows_kernels(x)):
        return block.layer_by_layer(x, drop_path_rate, keys)
    ones = jnp.ones((len(x), 1, 1, 1), jnp.float32)
    factors = [drop_path(ones, drop_path_rate, keys[branch])[..., 0, 0] for branch in (1, 3)]  # [B, 1] each
    return by_example(run_block(block, x, by_example(jnp.concatenate(factors, axis=1))))


def computes(block: Any, *, drops: bool) -> bool:
    """Returns whether the kernels compute a block. They do not support dropout.

    Args:
      block: a `model.blocks.FocalBlock`.
      drops: whether dropout is active if the block's rate is not 0.
    """
    active = drops and block.mlp.drop_rate > 0
    return not active and suits(block.compute.pointwise, block.compute.dtype) and fits(block)


def fits(block: Any) -> bool:
    """Returns whether the kernels support the components of a block, and its weights and their gradients fit.

    A block must have gates, a global level, and a query that is multiplied by the modulator. The weights and their
    gradients must fit in fast memory.

    Args:
      block: a `model.blocks.FocalBlock`.
    """
    modulation = block.modulation
    if modulation.gates is None or not (modulation.global_level and modulation.multiplies):
        return False
    itemsize = jnp.dtype(block.compute.dtype).itemsize
    # Post-norm blocks need more fast memory than `supports` counts. Compiling showed that 256 channels do not fit on a
    # v4, and that 1024 channels fit on a v5e.
    room = int(fast_memory(_SHARE) * (0.64 if block.postln else 1))
    return all(supports(weights, itemsize, room) for weights in _weights(block))


def run_embedding(proj: nnx.Conv, norm: Any, x: jax.Array, *, interpret: bool = False) -> jax.Array:
    """Returns `norm(proj(x))`, `[B, H', W', D]`, for `x` `[B, H, W, C]`.

    XLA computes the convolution; a kernel adds the bias and computes the norm.

    Args:
      proj: the convolution.
      norm: the LayerNorm.
      x: input `[B, H, W, C]`.
      interpret: whether to interpret the kernel step by step, on any platform.
    """
    weights = {"proj": {"bias": proj.bias[...]}, "norm": _arrays(norm)}
    layers = Layers(_add_and_normalize, proj.bias.shape, "embedding", fast_memory(_SHARE), interpret=interpret)
    return run_layers(layers, weights, (conv_without_bias(proj, x),))[0]


def _add_and_normalize(weights: Weights, x: jax.Array) -> tuple[jax.Array]:
    return (_norm(weights["norm"], x + weights["proj"]["bias"]),)


def run_block(block: Any, x: jax.Array, factors: jax.Array, *, interpret: bool = False) -> jax.Array:
    """Returns the output of a block, `[B, H, W, C]`, computed by the kernels without dropout.

    Args:
      block: a `model.blocks.FocalBlock`.
      x: input of the block, `[B, H, W, C]`.
      factors: factors of stochastic depth for the modulation branch and the MLP branch of each example, `[B, 2]`
        float32: 0 for a branch that is dropped, otherwise 1 / (1 - rate).
      interpret: whether to interpret the kernels step by step, on any platform.
    """
    before, after = _weights(block)
    dim, count = block.modulation.query.out_features, block.modulation.gates.out_features
    how = partial(Layers, vmem=fast_memory(_SHARE), interpret=interpret)
    with jax.named_scope("projections"):
        project = how(_project, (dim, dim, count), "projections", first_too=True)
        query, context, gates, x = run_layers(project, before, (x,))
    total, last = block.modulation.aggregate_levels(context, gates)
    scale = 1 / count if block.modulation.normalize_modulator else 1.0
    with jax.named_scope("mlp"):
        transform = how(partial(_modulate_and_transform, block.postln, scale), (dim,), "modulation_and_mlp")
        return run_layers(transform, after, (x, query, total, gates), (last.astype(jnp.float32),), (factors,))[0]


def _project(weights: Weights, x: jax.Array) -> tuple[jax.Array, ...]:
    """Returns query, context and gates."""
    if "norm1" in weights:
        x = _norm(weights["norm1"], x)
    return tuple(linear(weights[name], x) for name in ("query", "context", "gates"))


def _modulate_and_transform(
    postln: bool,
    scale: float,
    weights: Weights,
    x: jax.Array,
    query: jax.Array,
    total: jax.Array,
    gates: jax.Array,
    last: jax.Array,
    factors: jax.Array,
) -> tuple[jax.Array]:
    """Computes all layers after the aggregation: adds the gated global level, modulates the query and applies the MLP.

    Modulation and MLP are residual branches, which are multiplied by `factors`.
    """

    def add(number: int, x: jax.Array, branch: jax.Array) -> jax.Array:
        if postln:
            branch = _norm(weights[f"norm{number}"], branch)
        if f"gamma{number}" in weights:
            branch = branch * weights[f"gamma{number}"]["scale"]
        return x + branch * factors[:, number - 1 : number]

    context = (total + last * gates[:, -1:]) * scale
    modulated = query * linear(weights["modulator"], context)
    if "norm" in weights:
        modulated = _norm(weights["norm"], modulated)
    x = add(1, x, linear(weights["proj"], modulated))
    hidden = linear(weights["fc1"], x if postln else _norm(weights["norm2"], x))
    return (add(2, x, linear(weights["fc2"], activate(hidden, weights["fc1"]["kernel"].dtype))),)


def _weights(block: Any) -> tuple[Weights, Weights]:
    """Returns the weights of the layers before and after the aggregation."""
    modulation, mlp = block.modulation, block.mlp
    before = {"query": modulation.query, "context": modulation.context, "gates": modulation.gates}
    after = {"modulator": modulation.modulator, "proj": modulation.proj, "fc1": mlp.fc1, "fc2": mlp.fc2}
    after |= {"norm": modulation.norm} if modulation.norm is not None else {}
    if block.postln:
        after |= {"norm1": block.norm1, "norm2": block.norm2}
    else:
        before["norm1"], after["norm2"] = block.norm1, block.norm2
    before, after = ({name: _arrays(layer) for name, layer in part.items()} for part in (before, after))
    del before["context"]["bias"]  # the aggregation adds it
    for name, gamma in (("gamma1", block.gamma1), ("gamma2", block.gamma2)):
        if gamma is not None:
            after[name] = {"scale": gamma.get_value()}
    return before, after


def _arrays(layer: nnx.Module) -> dict[str, jax.Array]:
    return {name: leaf.get_value() for name, leaf in nnx.state(layer, nnx.Param).items()}
