"""Where the numbers of a computation lie, said to the compiler, which otherwise may choose to send activations around.

Without a mesh in the context (`jax.sharding.use_abstract_mesh`) nothing is said: a model by itself knows of none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from jax.sharding import PartitionSpec

EXAMPLES = ("data", "fsdp")  # the axes of the mesh that split a batch
CHANNELS = "tensor"  # and the one that splits the channels of wide layers
_SPLIT = {
    "context": PartitionSpec(EXAMPLES, None, None, CHANNELS),  # [B, H, W, C]
    "gate": PartitionSpec(EXAMPLES),  # [B, H, W]
    "kernel": PartitionSpec(None, None, None, CHANNELS),  # [k, k, 1, C]
    "parts": PartitionSpec(EXAMPLES, None, None, None, CHANNELS),  # [B, n, k, k, C]
}


def by_example(x: jax.Array, *, channels: bool = False) -> jax.Array:
    """`x` `[B, ..., C]` split along B, and with `channels` along C too."""
    return _placed(x, PartitionSpec(EXAMPLES, *[None] * (x.ndim - 2), CHANNELS if channels else None))


def by_channel(kernel: jax.Array) -> jax.Array:
    """A depthwise kernel `[k, k, 1, C]` split along C as its operand is."""
    return _placed(kernel, _SPLIT["kernel"])


def everywhere(x: jax.Array) -> jax.Array:
    """`x` whole on every device, each of which computes it."""
    return _placed(x, PartitionSpec())


def on_each_device(
    function: Callable[..., jax.Array], arguments: Sequence[str], result: str
) -> Callable[..., jax.Array]:
    """`function` of what a device holds: for kernels, which the compiler cannot split.

    Arguments and result are a "context" `[B, H, W, C]`, "gate" `[B, H, W]`, "kernel" `[k, k, 1, C]`, or "parts" of such
    kernels, `[B, n, k, k, C]`; they are split as `by_example` and `by_channel` say.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function
    specs = tuple(_SPLIT[name] for name in arguments)
    return jax.shard_map(function, in_specs=specs, out_specs=_SPLIT[result], check_vma=False)


def channels_a_device(x: jax.Array) -> int:
    """Of `x` `[B, ..., C]`, split as `by_example` says, how many channels a device holds."""
    mesh = jax.sharding.get_abstract_mesh()
    return x.shape[-1] if mesh.empty else x.shape[-1] // mesh.shape[CHANNELS]


def _placed(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    return x if jax.sharding.get_abstract_mesh().empty else jax.lax.with_sharding_constraint(x, spec)
