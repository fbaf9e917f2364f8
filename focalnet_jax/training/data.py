"""Training and evaluation batches, sharded over the mesh of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import jax
from jax.sharding import Mesh
from ml_collections import FrozenConfigDict

from focalnet_jax.data import loader
from focalnet_jax.data.source import Source
from focalnet_jax.data.substitutions import Substitutions
from focalnet_jax.distributed.mesh import LocalPlaces, check_batch_size
from focalnet_jax.tasks.task import Task
from focalnet_jax.training.evaluation import EvalData
from focalnet_jax.training.resolve import eval_batch_size, reader_threads


@dataclass(frozen=True)
class TrainData:
    """The training examples of a run, and the options for reading them."""

    task: Task
    batch_size: int
    seed: int
    reading: loader.ReadOptions
    substitutions: Substitutions

    @property
    def source(self) -> Source:
        """Training examples of the task."""
        return self.task.source

    @cached_property
    def _balance(self) -> object:
        return self.task.balance

    @cached_property
    def _groups(self) -> object:
        return self.task.groups

    def batches(
        self, start_step: int, end_step: int, stopped: Callable[[], bool] = loader.never
    ) -> Iterator[loader.Batch]:
        """Yields this host's part of the batches of the steps `start_step` + 1 to `end_step`.

        Ends early if `stopped` returns True while no batch is ready.
        """
        batches = loader.train_batches(
            self.source,
            self.task.host,
            batch_size=self.batch_size,
            seed=self.seed,
            start_step=start_step,
            end_step=end_step,
            repeats=self.task.repeats,
            balance=self._balance,
            groups=self._groups,
            reading=replace(self.reading, stopped=stopped),
        )
        return self.substitutions.counted(batches)


def open_train_data(config: FrozenConfigDict, mesh: Mesh, task: Task) -> TrainData:
    """Returns the training data of a task.

    Raises:
      UserError: the batch size cannot be divided evenly over devices and micro-batches.
    """
    batch_size = check_batch_size("batch_size", config.batch_size, mesh, config.accumulate_steps)
    counts, alone = LocalPlaces(mesh).counted(batch_size), jax.process_count() == 1
    substitutions = Substitutions(task.source, task.host, config.data.max_unreadable, counts, alone=alone)
    return TrainData(task, batch_size, config.seed, read_options(config, mesh), substitutions)


def open_eval_data(config: FrozenConfigDict, mesh: Mesh, task: Task) -> dict[str, EvalData]:
    """Returns the data of each evaluation of a task, by the prefix of its metrics.

    Raises:
      UserError: the batch size cannot be divided evenly over the devices.
    """
    key = "batch_size" if config.eval_batch_size is None else "eval_batch_size"
    batch_size, reading = check_batch_size(key, eval_batch_size(config, mesh), mesh), read_options(config, mesh)
    return {
        name: EvalData(evaluation, task.host, batch_size, reading) for name, evaluation in task.evaluations().items()
    }


def read_options(config: FrozenConfigDict, mesh: Mesh) -> loader.ReadOptions:
    """Returns the `ReadOptions` of a config, with which this process reads the examples for its own devices."""
    return loader.ReadOptions(reader_threads(config), config.data.workers, config.data.stall_seconds, LocalPlaces(mesh))
