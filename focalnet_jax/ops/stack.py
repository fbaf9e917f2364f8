"""Runs the stacked blocks of a stage, scanned or unrolled, and selects the values kept for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from focalnet_jax.distributed.activations import splits_weights
from focalnet_jax.ops.compute import Compute
from focalnet_jax.ops.levels import LEVELS

# What a block keeps for the backward pass, by name of the policy; the rest is recomputed.
REMAT_POLICIES = {
    "none": None,  # everything, except the input of the MLP's second layer
    "dots": jax.checkpoint_policies.save_from_both_policies(  # the projections' outputs and the focal levels
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(LEVELS),
    ),
    "full": jax.checkpoint_policies.nothing_saveable,  # the block's input only
}


class Schedule(NamedTuple):
    """How the blocks of a stage run."""

    scan: bool  # whether the blocks run in a scan; otherwise they are unrolled
    remat: str  # name in `REMAT_POLICIES`


def choose_schedule(depth: int, scan: bool | None, remat: str, compute: Compute, *, fused: bool) -> Schedule:
    """Returns the schedule of a stage with `depth` blocks.

    A single block is not scanned. If `scan` is None, blocks whose weights are gathered from other devices are scanned,
    because a loop needs memory for few gathered weights at a time. Otherwise, `fused` blocks and blocks with the
    aggregation "native" or "triton" are unrolled: a step that does not write and read the arrays of a loop takes a
    fifth to a quarter less time on TPUs and GPUs (docs/performance.md). All other blocks are scanned, because they take
    long to compile.

    If `remat` is "auto", the policy is "full" for `fused` blocks in a scan, because computing them again takes less
    time than writing and reading the arrays of the loop (docs/performance.md). Otherwise the policy is "none".

    Args:
      depth: number of blocks D.
      scan: whether to scan, or None for the faster choice.
      remat: one of `REMAT_POLICIES`, or "auto".
      compute: chosen implementations of the model.
      fused: whether the kernels of `ops.fused` compute the blocks.
    """
    if depth == 1 or scan is not None:
        scan = depth > 1 and bool(scan)
    else:
        scan = splits_weights() or not (compute.aggregation in ("native", "triton") or fused)
    if remat == "auto":
        remat = "full" if scan and fused else "none"
    return Schedule(scan, remat)


def run_blocks(
    block: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
    x: jax.Array,
    params: Any,
    inputs: tuple[jax.Array | None, ...],
    depth: int,
    schedule: Schedule,
) -> tuple[jax.Array, Any]:
    """Runs D blocks, each with the output of the previous block as its input.

    Args:
      block: function of one block: `block(x, (params, *inputs))` returns the next `x` and an output.
      x: input of the first block, `[B, H, W, C]`.
      params: parameters of all blocks, a tree of arrays `[D, ...]`.
      inputs: further inputs of all blocks, each an array `[D, ...]` or None.
      depth: number of blocks D.
      schedule: schedule of the blocks, which does not change the results.

    Returns:
      The last `x`, and the stacked outputs, a tree of arrays `[D, ...]`.
    """
    scan, remat = schedule
    if remat != "none":
        # Inside a scan, XLA cannot merge the recomputation with the forward pass, so `prevent_cse` is not needed.
        block = jax.checkpoint(block, policy=REMAT_POLICIES[remat], prevent_cse=not scan)
    if scan:
        return jax.lax.scan(block, x, (params, *inputs))
    outputs = []
    for index, one in enumerate(_unstacked(params, depth)):
        x, output = block(x, (one, *(None if each is None else each[index] for each in inputs)))
        outputs.append(output)
    return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _unstacked(tree: Any, depth: int) -> list[Any]:
    """Splits a tree of arrays `[D, ...]` into one tree per block.

    A custom rule stacks the gradients once. Autodiff would pad the gradient of each block with zeros for all other
    blocks, and add these arrays.
    """
    return [jax.tree.map(lambda leaf, index=index: leaf[index], tree) for index in range(depth)]


def _stacked(depth: int, _: None, gradients: list[Any]) -> tuple[Any]:
    return (jax.tree.map(lambda *each: jnp.stack(each), *gradients),)


_unstacked.defvjp(lambda tree, depth: (_unstacked(tree, depth), None), _stacked)
