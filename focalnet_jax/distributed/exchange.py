"""Integers that every process gives to all others with a batch, summed inside the train step.

No process may act alone on what it alone knows, such as a signal to stop: all receive the sums at the same step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from focalnet_jax.distributed.mesh import put_exchanged

_FIELD = "exchanged"  # of a batch, and of the metrics of its step


def with_sums(batch: Mapping[str, jax.Array], metrics: dict[str, jax.Array], last: jax.Array) -> dict[str, jax.Array]:
    """Returns the metrics of a step with the sums over the processes, where the batch carries integers; traced.

    Args:
      batch: of the step.
      metrics: of the step.
      last: a scalar of at least 0 that depends on every other exchange of the step. The sum waits for it: on CPUs two
        exchanges that do not wait for each other may take each other's messages.
    """
    if _FIELD not in batch:
        return metrics
    never = (last < 0).astype(jnp.int32)
    return metrics | {_FIELD: (batch[_FIELD] + never).sum(axis=0)}


def without(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns a batch without the integers."""
    return {name: value for name, value in batch.items() if name != _FIELD}


class Exchange:
    """The newest sums over all processes of the integers that each gave with a batch.

    With a single process nothing is exchanged: its own integers are the sums.

    Args:
      mesh: of the run.
      first: the sums before the first batch.
    """

    def __init__(self, mesh: Mesh, first: Sequence[int]):
        self.alone = jax.process_count() == 1
        self.sums = list(first)
        self._mesh = mesh

    def give(self, batch: dict[str, jax.Array], own: Sequence[int]) -> dict[str, jax.Array]:
        """Returns the batch with this process's integers."""
        if self.alone:
            self.sums = list(own)
            return batch
        return batch | {_FIELD: put_exchanged(own, self._mesh)}

    def send(self, metrics: dict[str, jax.Array]) -> None:
        """Starts to copy the sums of a step to the host, so that receiving them later takes no time."""
        if not self.alone:
            metrics[_FIELD].copy_to_host_async()

    def receive(self, metrics: Mapping[str, jax.Array] | None) -> None:
        """Takes the sums of a step that is done; None before the first one."""
        if metrics is not None and not self.alone:
            self.sums = np.asarray(jax.device_get(metrics[_FIELD])).tolist()


def scalars(metrics: Mapping[str, jax.Array]) -> dict[str, float]:
    """Returns the metrics of a step as numbers, without the sums."""
    return {name: float(value) for name, value in jax.device_get(without(metrics)).items()}
