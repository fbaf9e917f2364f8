"""Which axis of which parameter is split over which axis of the mesh; optimizer state is split like its parameters.

`tensor` splits the wide layers by channel: those before a sum over channels by their outputs, those that take the sum
by their inputs, so that few activations are exchanged (arXiv 1909.08053). `fsdp` splits every large parameter along its
longest axis (arXiv 1910.02054, stage 3).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from focalnet_jax.errors import UserError
from focalnet_jax.parameters import named_leaves, path_name

# The last axes of a parameter; the first rule that is found in its path name holds.
TENSOR_RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"/mlp/fc1/kernel$", (None, "tensor")),
    (r"/mlp/fc1/bias$", ("tensor",)),
    (r"/mlp/fc2/kernel$", ("tensor", None)),
    (r"/modulation/(query|context)/kernel$", (None, "tensor")),
    (r"/modulation/(query|context)/bias$", ("tensor",)),
    (r"/modulation/focal_kernels/\d+/kernel$", (None, "tensor")),
    (r"/modulation/(modulator|proj)/kernel$", ("tensor", None)),
)
_LEAST = 4096  # numbers; to gather less than that costs more than it saves
_STACKED = "/blocks/"  # parameters of blocks have the depth as their first axis, which the scan goes through


def partition(name: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> PartitionSpec:
    """How a parameter, or what an optimizer keeps of it, lies on a mesh of these axis sizes.

    Args:
      name: its path name, which ends in that of the parameter.
      shape: its own.
      sizes: of the axes `fsdp` and `tensor`.

    Raises:
      UserError: `tensor` does not divide an axis it splits.
    """
    axes: list[str | None] = [None] * len(shape)
    if sizes["tensor"] > 1:
        last = next((last for pattern, last in TENSOR_RULES if re.search(pattern, name)), ())
        axes[len(shape) - len(last) :] = last
    for axis, length in zip(axes, shape, strict=True):
        if axis == "tensor" and length % sizes["tensor"]:
            raise UserError(
                f"mesh.tensor={sizes['tensor']} does not divide the {length} channels of {name}: expected a divisor of "
                f"{length}"
            )
    first = 1 if _STACKED in name else 0
    free = [place for place in range(first, len(shape)) if axes[place] is None and not shape[place] % sizes["fsdp"]]
    if sizes["fsdp"] > 1 and free and math.prod(shape) >= _LEAST:
        axes[max(free, key=lambda place: shape[place])] = "fsdp"
    return PartitionSpec(*axes)


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of every array of a state (arrays or shapes) by `partition`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, partition(path_name(path), leaf.shape, mesh.shape)), tree
    )


def describe(params: Any, mesh: Mesh) -> str:
    """How much of the parameters is split over which axes, and what a device holds of them."""
    numbers: Counter[str] = Counter()
    held = 0
    for name, leaf in named_leaves(params).items():
        axes = [axis for axis in partition(name, leaf.shape, mesh.shape) if axis and mesh.shape[axis] > 1]
        size = math.prod(leaf.shape)
        numbers[" and ".join(sorted(axes))] += size
        held += size // math.prod(mesh.shape[axis] for axis in axes)
    whole, total = numbers.pop("", 0), numbers.total()
    if not total:
        return "parameters whole on every device"
    total += whole
    over = ", ".join(f"{size / total:.1%} over {axes}" for axes, size in numbers.most_common())
    return (
        f"{1 - whole / total:.1%} of the parameters split ({over}), {whole / total:.1%} whole; "
        f"a device holds {held:,} of {total:,}"
    )


def list_placement(params: Any, mesh: Mesh) -> str:
    """A line a parameter: its path name, its shape, and the axis of the mesh each of its own is split over."""
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
