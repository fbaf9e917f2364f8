"""Sharding of parameters over the axes of the mesh; optimizer state is sharded like its parameters.

`tensor` splits pairs of wide layers by channel, so that few activations are exchanged (arXiv 1909.08053): the first
layer by its outputs, and the second layer by its inputs. `fsdp` (arXiv 1910.02054, stage 3) splits every large
parameter along the longest axis that `tensor` does not split and whose length is divisible by the size of `fsdp`, but
never along the axis of stacked blocks. If there is no such axis, `fsdp` does not split the parameter.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from focalnet_jax.errors import UserError
from focalnet_jax.parameters import named_leaves, path_name

# How `tensor` splits the last axes of a parameter, by its path name; exactly one rule must match each parameter.
TENSOR_RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"/mlp/fc1/kernel$", (None, "tensor")),
    (r"/mlp/fc1/bias$", ("tensor",)),
    (r"/mlp/fc2/kernel$", ("tensor", None)),
    (r"/modulation/(query|context)/kernel$", (None, "tensor")),
    (r"/modulation/(query|context)/bias$", ("tensor",)),
    (r"/modulation/focal_kernels/\d+/kernel$", (None, "tensor")),
    (r"/modulation/(modulator|proj)/kernel$", ("tensor", None)),
    # Replicated over `tensor`, because they are small or are added after a sum over channels:
    (r"/mlp/fc2/bias$", ()),
    (r"/modulation/gates/(kernel|bias)$", ()),
    (r"/modulation/(modulator|proj)/bias$", ()),
    (r"/gamma[12]$", ()),
    (r"(^|/)(norm[12]?|output_norms/\d+)/(scale|bias)$", ()),
    (r"(^|/)(patch_embed|downsample)/proj/(kernel|bias)$", ()),
    (r"(^|/)head/(kernel|bias)$", ()),
    (r"(^|/)(decode|auxiliary)_head/.+/conv/kernel$", ()),
    (r"(^|/)(decode|auxiliary)_head/.+/bn/(scale|bias)$", ()),
    (r"(^|/)(decode|auxiliary)_head/conv_seg/(kernel|bias)$", ()),
    (r"(^|/)(neck|(bbox|rpn|roi)_head)/(?!.*/(mean|var)$).+", ()),  # detectors
    (r"(^|/)(mean|var)$", ()),  # running statistics
)
_LEAST = (
    4096  # elements of the smallest parameter that fsdp splits; for smaller ones, gathering costs more than it saves
)
_STACKED = "/blocks/"  # parameters of blocks are stacked along a first axis of size depth, over which they are scanned


def partition(name: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> PartitionSpec:
    """Returns the PartitionSpec of a parameter, or of its optimizer state, on a mesh of these axis sizes.

    Args:
      name: path name of the array; ends with the path name of the parameter.
      shape: shape of the array.
      sizes: sizes of the mesh axes `fsdp` and `tensor`.

    Raises:
      UserError: not exactly one rule of `TENSOR_RULES` matches the name (checked for every mesh, but not for scalars,
        which are replicated), or a dimension that `tensor` splits is not divisible by the size of `tensor`.
    """
    axes: list[str | None] = [None] * len(shape)
    if shape:  # scalars, such as step counts, are replicated
        last = _tensor_rule(name)
        if sizes["tensor"] > 1:
            axes[len(shape) - len(last) :] = last
    for axis, length in zip(axes, shape, strict=True):
        if axis == "tensor" and length % sizes["tensor"]:
            raise UserError(
                f"mesh.tensor={sizes['tensor']} does not divide the {length} channels of {name}: expected a divisor of "
                f"{length}"
            )
    first = 1 if _STACKED in name else 0
    free = [index for index in range(first, len(shape)) if axes[index] is None and not shape[index] % sizes["fsdp"]]
    if sizes["fsdp"] > 1 and free and math.prod(shape) >= _LEAST:
        axes[max(free, key=lambda index: shape[index])] = "fsdp"
    return PartitionSpec(*axes)


@functools.cache
def _tensor_rule(name: str) -> tuple[str | None, ...]:
    found = [(pattern, last) for pattern, last in TENSOR_RULES if re.search(pattern, name)]
    if len(found) != 1:
        patterns = " and ".join(pattern for pattern, _ in found) or "none"
        raise UserError(
            f"exactly one rule of TENSOR_RULES (focalnet_jax/distributed/sharding.py) must match the parameter {name}; "
            f"found {patterns}: {'change' if found else 'add'} a rule"
        )
    return found[0][1]


def shardings(tree: Any, mesh: Mesh) -> Any:
    """Returns a tree with the sharding of every array in `tree`, according to `partition`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, partition(path_name(path), leaf.shape, mesh.shape)), tree
    )


def describe_sharding(params: Any, mesh: Mesh) -> str:
    """Returns a line with the fraction of the parameters that each mesh axis splits, and the number per device."""
    numbers: Counter[str] = Counter()
    stored = 0  # by each device
    for name, leaf in named_leaves(params).items():
        axes = [axis for axis in partition(name, leaf.shape, mesh.shape) if axis and mesh.shape[axis] > 1]
        size = math.prod(leaf.shape)
        numbers[" and ".join(sorted(axes))] += size
        stored += size // math.prod(mesh.shape[axis] for axis in axes)
    whole, total = numbers.pop("", 0), numbers.total()
    if not total:
        return "parameters are replicated on every device"
    total += whole
    over = ", ".join(f"{size / total:.1%} over {axes}" for axes, size in numbers.most_common())
    return (
        f"{1 - whole / total:.1%} of the parameters are sharded ({over}), {whole / total:.1%} replicated; "
        f"each device stores {stored:,} of {total:,}"
    )


def list_placement(params: Any, mesh: Mesh) -> str:
    """Returns one line per parameter: path name, shape, and for each dimension the mesh axis that splits it, or "-"."""
    rows = [
        (
            name,
            "x".join(map(str, leaf.shape)),
            ", ".join(axis or "-" for axis in partition(name, leaf.shape, mesh.shape)),
        )
        for name, leaf in named_leaves(params).items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "".join(f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {axes}\n" for name, shape, axes in rows)
