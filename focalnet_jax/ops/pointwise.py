"""Pointwise layers fused into one kernel for the forward pass and one for the backward pass, for TPUs.

A kernel instance computes some positions of some examples, which are the rows of its matrices. Results between the
layers stay in fast memory (VMEM). Only the inputs are kept for the backward pass: the backward kernel computes the
layers again, differentiates them by `jax.vjp`, and adds up the gradients of the weights over the kernel instances.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from focalnet_jax.distributed.activations import on_each_device, splits_channels
from focalnet_jax.ops.mosaic.layers import Call, Layers, Maps, Refs, Weights, elements_per_instance
from focalnet_jax.ops.rules import with_rule


@partial(with_rule, nondiff_argnums=(0,))
def run_layers(
    layers: Layers, weights: Weights, maps: Maps, shared: Maps = (), constants: Maps = ()
) -> tuple[jax.Array, ...]:
    """Returns the results of the layers, `[B, H, W, D]` each in the dtype of the maps.

    If `layers.first_too` is set, the first map is returned as the last result.

    Args:
      layers: the layers.
      weights: weights of the layers, in float32; their gradients are float32 too.
      maps: one or more maps `[B, H, W, C]` with the same B, H and W.
      shared: arrays `[B, n]` float32, with the same values at all positions of an example.
      constants: arrays like `shared`, but without gradients.
    """
    on_each = on_each_device(partial(_forward, layers), ("whole", "examples", "examples", "examples"), "examples")
    return (*on_each(_rounded(weights, maps[0].dtype), maps, shared, constants), *maps[: layers.first_too])


def _run_back(layers: Layers, kept: Any, cotangents: Maps) -> Any:
    back = on_each_device(partial(_backward, layers), ("whole", *("examples",) * 4), ("sums", "examples", "examples"))
    weights, maps, *others = kept
    parts, to_maps, to_shared = back(_rounded(weights, maps[0].dtype), maps, *others, cotangents)
    # Without the barrier, the compiler lets the kernel write its gradients into the stacked gradients of a loop over
    # blocks, and then ignores the kernel's limit of fast memory.
    parts = jax.lax.optimization_barrier(parts)
    return (
        jax.tree.map(lambda part: part.sum(axis=0), parts),
        to_maps,
        to_shared,
        jax.tree.map(jnp.zeros_like, kept[-1]),
    )


run_layers.defvjp(lambda layers, *given: (run_layers(layers, *given), given), _run_back)


def _rounded(weights: Weights, dtype: Any) -> Weights:
    """Rounds matrices to the dtype of their products, before devices gather them."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.ndim == 2 else leaf, weights)


def suits(implementation: str, dtype: Any) -> bool:
    """Returns whether the kernels are selected, `dtype` is bfloat16, and channels are not split over devices."""
    return implementation == "mosaic" and dtype == jnp.bfloat16 and not splits_channels()


def supports(weights: Weights, itemsize: int, vmem: int) -> bool:
    """Returns whether layers with these weights, and the weights' gradients, fit in `vmem` bytes of fast memory."""
    return elements_per_instance(weights, itemsize, vmem) > 0


def _forward(layers: Layers, weights: Weights, maps: Maps, shared: Maps, constants: Maps) -> Maps:
    call = Call(layers, weights, maps)

    def program(weights: Refs, maps: Refs, shared: Refs, constants: Refs, results: Refs) -> None:
        each = [call.each_row(ref[...]) for ref in (*shared, *constants)]
        made = layers.function(call.weights_of(weights), *map(call.rows_of, maps), *each)
        for ref, rows in zip(results, made, strict=True):
            ref[...] = rows.reshape(ref.shape).astype(ref.dtype)

    (results,) = call.run(program, [maps, shared, constants], [[call.map(channels) for channels in layers.channels]])
    return tuple(map(call.by_example, results))


def _backward(
    layers: Layers, weights: Weights, maps: Maps, shared: Maps, constants: Maps, cotangents: Maps
) -> tuple[Weights, Maps, Maps]:
    """Returns the gradients of the weights, the maps and the shared arrays.

    The gradients of the weights are `[n, ...]`; the caller adds them up along n.
    """
    call = Call(layers, weights, maps)

    def program(
        weights: Refs, maps: Refs, shared: Refs, constants: Refs, arriving: Refs, sums: Refs, out: Refs, to_shared: Refs
    ) -> None:
        first, next_example = pl.program_id(1) == 0, pl.program_id(2) == 0
        for begins, refs in ((first & next_example, sums), (next_example, to_shared)):
            pl.when(begins)(partial(_clear, refs))
        fixed = [call.each_row(ref[...]) for ref in constants]

        def function(weights: Weights, maps: list[jax.Array], shared: list[jax.Array]) -> tuple[jax.Array, ...]:
            return layers.function(weights, *maps, *map(call.each_row, shared), *fixed)

        rows = [call.rows_of(ref, inside=True) for ref in maps]
        _, back = jax.vjp(function, call.weights_of(weights), rows, [ref[...] for ref in shared])
        coming = [call.rows_of(ref, inside=True) for ref in arriving]
        of_weights, of_rows, of_shared = back(tuple(coming[: len(layers.channels)]))
        if layers.first_too:
            of_rows[0] += coming[-1]
        for ref, each in zip(out, of_rows, strict=True):
            ref[...] = each.reshape(ref.shape).astype(ref.dtype)
        for ref, each in zip((*sums, *to_shared), (*jax.tree.leaves(of_weights), *of_shared), strict=True):
            ref[0] += each

    outputs = [
        [call.sum_of(leaf) for leaf in jax.tree.leaves(call.weights)],
        [call.map(x.shape[-1]) for x in maps],
        [call.sum_per_example(x.shape[-1]) for x in shared],
    ]
    sums, to_maps, to_shared = call.run(program, [maps, shared, constants, cotangents], outputs, "_gradients")
    leaves, tree = jax.tree.flatten(weights)
    parts = [part.reshape(-1, *leaf.shape) for part, leaf in zip(sums, leaves, strict=True)]
    to_shared = tuple(x.sum(axis=0)[: call.given] for x in to_shared)
    return jax.tree.unflatten(tree, parts), tuple(map(call.by_example, to_maps)), to_shared


def _clear(refs: Refs) -> None:
    for ref in refs:
        ref[...] = jnp.zeros_like(ref)
