"""Sums integers over the processes of a run: each process adds its integers to a batch, and the train step sums them.

All processes receive the sums at the same step. They can therefore act together on an event that only one process has
seen, such as a signal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from focalnet_jax.distributed.mesh import put_exchanged

_FIELD = "exchanged"  # name of the field in a batch and in the metrics of its step


def with_sums(batch: Mapping[str, jax.Array], metrics: dict[str, jax.Array], last: jax.Array) -> dict[str, jax.Array]:
    """Returns the metrics of a step and, if `Exchange.give` added integers to the batch, the sums of these integers.

    The train step calls this function, so JAX traces it.

    Args:
      batch: batch of the step.
      metrics: metrics of the step.
      last: scalar of at least 0 that depends on every other exchange of the step. The sum waits for this scalar,
        because on CPUs two concurrent exchanges may receive each other's messages.
    """
    if _FIELD not in batch:
        return metrics
    never = (last < 0).astype(jnp.int32)
    return metrics | {_FIELD: (batch[_FIELD] + never).sum(axis=0)}


def without(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns a batch without the processes' integers, or the metrics of a step without their sums."""
    return {name: value for name, value in batch.items() if name != _FIELD}


class Exchange:
    """Adds integers to the batches of this process, and receives their sums over all processes.

    `sums` is the newest list of sums. In a run of one process, nothing is exchanged: `sums` are the process's integers.

    Args:
      mesh: mesh of the run.
      first: initial sums, before the first batch.
    """

    def __init__(self, mesh: Mesh, first: Sequence[int]):
        self.alone = jax.process_count() == 1
        self.sums = list(first)
        self._mesh = mesh

    def give(self, batch: dict[str, jax.Array], own: Sequence[int]) -> dict[str, jax.Array]:
        """Returns the batch with the integers `own` of this process, which the train step sums over all processes.

        In a run of one process, the batch is unchanged, and `sums` becomes `own`.
        """
        if self.alone:
            self.sums = list(own)
            return batch
        return batch | {_FIELD: put_exchanged(own, self._mesh)}

    def send(self, metrics: dict[str, jax.Array]) -> None:
        """Starts copying the sums of a step to the host, so that `receive` does not wait for them."""
        if not self.alone:
            metrics[_FIELD].copy_to_host_async()

    def receive(self, metrics: Mapping[str, jax.Array] | None) -> None:
        """Stores the sums of a finished step in `sums`; does nothing if `metrics` is None, before the first step."""
        if metrics is not None and not self.alone:
            self.sums = np.asarray(jax.device_get(metrics[_FIELD])).tolist()


def scalars(metrics: Mapping[str, jax.Array]) -> dict[str, float]:
    """Returns the metrics of a step as Python numbers, without the sums of the processes' integers."""
    return {name: float(value) for name, value in jax.device_get(without(metrics)).items()}
