"""Focal blocks and embeddings whose layers are kernels of several, for TPUs (ops/pointwise.py).

Of a block one kernel is all that comes before the aggregation, and another all that comes after it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from focalnet_jax.model.layers import LAYER_NORM_EPSILON, conv_without_bias
from focalnet_jax.ops.mosaic import fast_memory
from focalnet_jax.ops.pointwise import Layers, Weights, run_layers, supports
from focalnet_jax.ops.rows import activate, layer_norm, linear

_SHARE = 0.8  # of fast memory, for a kernel
_norm = partial(layer_norm, epsilon=LAYER_NORM_EPSILON)


def fits(block: Any) -> bool:
    """Whether it is a block as the paper's and fast memory holds its weights and their gradients."""
    modulation = block.modulation
    if modulation.gates is None or not (modulation.global_level and modulation.multiplies):
        return False
    itemsize = jnp.dtype(modulation.dtype).itemsize
    # With norms behind the branches more lies there than is counted: of 256 channels more than a v4 has, while a v5e
    # takes 1024.
    room = int(fast_memory(_SHARE) * (0.64 if block.postln else 1))
    return all(supports(weights, itemsize, room) for weights in _weights(block))


def run_embedding(embedding: Any, x: jax.Array, *, interpret: bool = False) -> jax.Array:
    """What a `PatchEmbed` makes of `[B, H, W, C]`: its convolution by XLA, bias and norm in a kernel."""
    weights = {"proj": {"bias": embedding.proj.bias[...]}, "norm": _arrays(embedding.norm)}
    layers = Layers(
        _add_and_normalize, embedding.proj.bias.shape, "embedding", fast_memory(_SHARE), interpret=interpret
    )
    return run_layers(layers, weights, (conv_without_bias(embedding.proj, x),))[0]


def _add_and_normalize(weights: Weights, x: jax.Array) -> tuple[jax.Array]:
    return (_norm(weights["norm"], x + weights["proj"]["bias"]),)


def run_block(block: Any, x: jax.Array, factors: jax.Array, *, interpret: bool = False) -> jax.Array:
    """What a `FocalBlock` makes of `[B, H, W, C]` without dropout.

    Args:
      block: the block.
      x: its input.
      factors: `[B, 2]` float32, of each example what stochastic depth multiplies the two branches with.
      interpret: run the kernels step by step wherever it is.
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
    """Query, context and gates."""
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
    """The global level, the modulated query and the MLP, the last two on their residual connections."""

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
    """Of the layers before and after the aggregation."""
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
