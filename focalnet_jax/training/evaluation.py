"""Runs an evaluation, which measures every example of a source exactly once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
from jax.sharding import Mesh

from focalnet_jax.data import loader
from focalnet_jax.data.host import Batch, Host
from focalnet_jax.distributed.mesh import put_batch
from focalnet_jax.tasks.task import Evaluation
from focalnet_jax.training.state import Variables

_BATCHES_IN_FLIGHT = 2  # bounds memory, because JAX dispatches batches faster than the device computes them


@dataclass(frozen=True)
class EvalData:
    """The examples of an evaluation, and the options for reading them."""

    evaluation: Evaluation
    host: Host
    batch_size: int
    reading: loader.ReadOptions

    @cached_property
    def _groups(self) -> Sequence[Sequence[int]]:
        return self.host.groups(self.evaluation.source)  # may read a part of every example

    def batches(self) -> Iterator[Batch]:
        """Yields this host's part of each batch. The batches of all hosts together have every example once."""
        return loader.eval_batches(
            self.evaluation.source,
            self.host,
            batch_size=self.batch_size,
            groups=self._groups,
            reading=self.reading,
        )


def evaluate(
    eval_step: Callable[[Variables, dict[str, jax.Array]], Any],
    variables: Variables,
    batches: Iterable[Batch],
    mesh: Mesh,
    evaluation: Evaluation,
) -> dict[str, float | int]:
    """Returns the metrics of an evaluation over the batches.

    Args:
      eval_step: function returned by `make_eval_step`.
      variables: variables of the model.
      batches: this host's part of the batches.
      mesh: mesh of the devices.
      evaluation: `Evaluation` that combines the measured arrays.
    """
    pending: deque[tuple[Any, Batch]] = deque()
    evaluation.reset()

    def add_oldest() -> None:
        measured, batch = pending.popleft()
        evaluation.add(jax.device_get(measured), batch)

    for batch in batches:
        pending.append((eval_step(variables, put_batch(batch, mesh)), batch))
        if len(pending) > _BATCHES_IN_FLIGHT:
            add_oldest()
    while pending:
        add_oldest()
    return evaluation.result()
