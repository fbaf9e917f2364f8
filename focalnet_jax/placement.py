"""Where the numbers of a computation lie, said to the compiler, which otherwise may choose to send activations around.

Without a mesh in the context (`jax.sharding.use_abstract_mesh`) nothing is said: a model by itself knows of none.
"""

from __future__ import annotations

import jax
from jax.sharding import PartitionSpec

EXAMPLES = ("data", "fsdp")  # the axes of the mesh that split a batch
CHANNELS = "tensor"  # and the one that splits the channels of wide layers


def by_example(x: jax.Array, *, channels: bool = False) -> jax.Array:
    """`x` `[B, ..., C]` split along B, and with `channels` along C too."""
    return _placed(x, PartitionSpec(EXAMPLES, *[None] * (x.ndim - 2), CHANNELS if channels else None))


def by_channel(kernel: jax.Array) -> jax.Array:
    """A depthwise kernel `[k, k, 1, C]` split along C as its operand is."""
    return _placed(kernel, PartitionSpec(None, None, None, CHANNELS))


def everywhere(x: jax.Array) -> jax.Array:
    """`x` whole on every device, each of which computes it."""
    return _placed(x, PartitionSpec())


def _placed(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    return x if jax.sharding.get_abstract_mesh().empty else jax.lax.with_sharding_constraint(x, spec)
