"""Checkpoints of a run, on top of Orbax's CheckpointManager.

A step is a folder with these items:

- `params`, the parameters
- `ema`, their exponential moving average, if the run keeps one
- `statistics` and `ema_statistics`, if the model has variables that are not parameters
- `training`, the remaining train state
- `metadata`, JSON with the resolved config, and properties of the model, the data and the software
- the manifest of all files with their SHA-256, see `integrity`; a step without a manifest is not a checkpoint
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import orbax.checkpoint as ocp

from focalnet_jax.checkpoint.integrity import read_manifest, record_evaluation, seal
from focalnet_jax.checkpoint.late import LateEvaluation
from focalnet_jax.checkpoint.steps import (
    FOLDER,
    ITEMS,
    SAVED,
    check_path,
    check_whole,
    check_writable,
    delete,
    is_complete,
    kept,
    list_steps,
    metric_of,
    newest_step,
    remove_leftovers,
)
from focalnet_jax.checkpoint.weights import Tree, abstract, check_fits, in_time, quiet, reading, reason
from focalnet_jax.distributed.startup import is_lost_connection, warn
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.storage.address import AnyPath, absolute, is_bucket
from focalnet_jax.storage.failures import storage_error
from focalnet_jax.storage.files import write_whole

_SLOW_SECONDS = 30.0  # time of waiting for a save to a bucket after which a warning is printed


@dataclass(frozen=True)
class _Save:
    """Work of the background thread: a save, or adding an evaluation to a saved step.

    Attributes:
      step: number of the step.
      items: names of the items with arrays; empty if the step is saved.
      arguments: arguments for Orbax, or None if Orbax is writing already or the step is saved.
      evaluation: metrics for the manifest, or None without an evaluation.
    """

    step: int
    items: tuple[str, ...] = ()
    arguments: ocp.args.Composite | None = None
    evaluation: Mapping[str, Any] | None = None


class Checkpoints:
    """Checkpoints of a run in its workdir.

    Keeps the `keep_latest` newest steps and the `keep_best` steps with the highest `metric`, and deletes other steps.
    Only one run at a time may write to a workdir. Each process of the run has an instance; process 0 writes the
    manifests and deletes old steps.

    Args:
      workdir: workdir of the run.
      metric: name of the metric that ranks the steps.
      keep_latest: number of newest steps to keep.
      keep_best: number of best steps to keep.
      before_seal: called before a step is written and before it becomes a checkpoint; raises an error if the run may
        not write.

    Raises:
      UserError: `keep_latest` is less than 1, or checkpoints cannot be written to the workdir.
    """

    def __init__(
        self,
        workdir: AnyPath,
        metric: str,
        *,
        keep_latest: int,
        keep_best: int,
        before_seal: Callable[[], None] = lambda: None,
    ):
        if keep_latest < 1:
            raise UserError(f"keep_latest={keep_latest}; expected at least 1, which is needed to resume")
        self._keep = {"latest": keep_latest, "best": keep_best}
        self._metric = metric
        self._workdir, self._folder = workdir, absolute(workdir) / FOLDER
        self._writes = jax.process_index() == 0
        self._before_seal = before_seal
        check_path(workdir)
        if not is_bucket(workdir):  # in a bucket, writing the lock has shown this
            check_writable(self._folder)
        if self._writes:
            remove_leftovers(self._folder)
        self._manager = self._open()
        self._late = LateEvaluation()
        self._settling: threading.Thread | None = None
        self._failure: Exception | None = None
        self.latest_step = self._sealed = newest_step(self._folder)

    def save(
        self, step: int, items: dict[str, Tree], metadata: dict[str, Any], evaluation: Mapping[str, Any] | None = None
    ) -> None:
        """Starts writing `items` in the background, and returns as soon as the arrays may be changed.

        If `step` is already the newest step, only adds the evaluation to this step.

        Raises:
          RunFailedError: the previous save failed, or this save cannot start.
        """
        if step == self.latest_step:
            self._add(step, evaluation)
            return
        self.wait()
        # Orbax needs about 0.1 s for the arrays, however small they are. A single process copies them to the host and
        # continues. Several processes save together and have only parts of the arrays, so they wait for Orbax.
        alone = jax.process_count() == 1
        if alone:
            items = jax.device_get(items)
        trees = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        arguments = ocp.args.Composite(**trees, metadata=ocp.args.JsonSave(metadata))
        if not alone:
            try:
                self._begin(step, arguments)
            except (OSError, ValueError, RuntimeError) as error:
                raise self._failed(step, error) from error
        self.latest_step = step
        self._late.open()
        self._start(_Save(step, tuple(items), arguments if alone else None, evaluation))

    @property
    def busy(self) -> bool:
        """Whether a save is in progress."""
        return self._settling is not None and self._settling.is_alive()

    def restore(self, step: int, like: dict[str, Tree]) -> dict[str, Tree]:
        """Returns the items of a step, with the structure, dtypes and shardings of `like`, without verifying the step.

        Raises:
          UserError: the step's arrays do not fit this model; the message names the arrays that differ.
          RunFailedError: the step cannot be read.
        """
        for name, tree in like.items():
            check_fits(self._step(step), name, tree)
        trees = {name: ocp.args.StandardRestore(abstract(tree)) for name, tree in like.items()}
        arguments = ocp.args.Composite(**trees)
        with reading(self._step(step)):
            return dict(in_time(self._step(step), lambda: self._manager.restore(step, args=arguments)).items())

    def last_good(self) -> int | None:
        """Waits for a save in progress. Returns the newest complete step, or None if no step is complete."""
        if self._settling is not None:
            self._settling.join()
        return self._newest_complete()

    def describe_newest(self) -> str:
        """Returns a phrase for messages that names the newest complete step; does not wait for a save in progress."""
        if is_bucket(self._folder) and not self._writes:  # only process 0 knows which step it completed
            return "earlier checkpoints are unchanged"
        good = self._newest_complete()
        return f"the last good checkpoint is step {good}" if good is not None else "there is no earlier checkpoint"

    def holds(self, step: int) -> bool:
        """Returns whether a step is completely saved; in a bucket, True only for the newest complete step."""
        return self._sealed == step if is_bucket(self._folder) else is_complete(self._step(step))

    def best_value(self) -> float:
        """Returns the highest `metric` among the checkpoints, or minus infinity if no checkpoint has it."""
        steps = map(self._step, list_steps(self._folder))
        return max((metric_of(step, self._metric) for step in steps), default=-math.inf)

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          RunFailedError: the checkpoint could not be written; earlier checkpoints are unchanged.
        """
        if self._settling is not None:
            self._settling.join(_SLOW_SECONDS if is_bucket(self._folder) else None)
            if self._settling.is_alive():
                warn(f"the bucket is slow: waiting for the save of step {self.latest_step} in {self._folder}")
                self._settling.join()
            self._settling = None
        failure, self._failure = self._failure, None
        if failure is not None:
            self._reopen()
            raise self._failed(self.latest_step, failure) from failure

    def close(self) -> None:
        """Waits for a save in progress and closes Orbax's manager. Does not raise if the save failed, unlike `wait`."""
        if self._settling is not None:
            self._settling.join()
        with quiet(), contextlib.suppress(Exception):
            self._manager.close()

    def _reopen(self) -> None:
        """Opens a new manager after a failed save, because Orbax's manager raises the same error at the next save.

        Several processes would have to do this together.
        """
        if jax.process_count() == 1:
            with quiet(), contextlib.suppress(Exception):
                self._manager.close()
            with contextlib.suppress(Exception):  # the next save fails, too
                self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        # This class, not Orbax, decides which steps to keep, because it knows the manifests.
        return ocp.CheckpointManager(self._folder, item_names=ITEMS)

    def _start(self, save: _Save) -> None:
        self._settling = threading.Thread(target=self._settle, args=(save,), name="checkpoint")
        self._settling.start()

    def _add(self, step: int, evaluation: Mapping[str, Any] | None) -> None:
        """Adds an evaluation to the newest step: on a disk at once, in a bucket in the background.

        On a disk, a kill thus never leaves an evaluation that is in metrics.jsonl but not in the manifest.
        """
        if evaluation is not None and is_bucket(self._folder) and self._late.offer(evaluation):
            return
        self.wait()
        if evaluation is not None and self._writes:
            self._start(_Save(step, evaluation=evaluation))
            if not is_bucket(self._folder):
                self.wait()

    def _begin(self, step: int, arguments: ocp.args.Composite) -> None:
        if not self._manager.save(step, args=arguments):
            raise RuntimeError("a newer step exists")

    def _settle(self, save: _Save) -> None:
        """Finishes a save in the background: Orbax's writing, the manifest, deletion of old steps."""
        try:
            self._write(save)
        except Exception as error:  # raised by the next `save` or `wait`
            self._failure = error
            self._late.close()

    def _write(self, save: _Save) -> None:
        step = save.step
        if save.arguments is not None:
            self._before_seal()
            self._begin(step, save.arguments)
        self._manager.wait_until_finished()
        if not self._writes:
            return
        if save.items:
            check_whole(self._step(step), save.items)
        self._before_seal()
        if save.items:
            seal(self._step(step), save.evaluation)
            self._sealed = step
            write_whole(self._workdir / SAVED, json.dumps({"step": step}) + "\n")
        else:
            self._record(step, save.evaluation)
        while True:
            self._before_seal()
            self._delete_old()
            if (late := self._late.take()) is None:
                return
            self._record(step, late)

    def _record(self, step: int, evaluation: Mapping[str, Any]) -> None:
        """Adds an evaluation to a saved step that has none."""
        if read_manifest(self._step(step)).evaluation is None:
            record_evaluation(self._step(step), evaluation)

    def _delete_old(self) -> None:
        steps = [step for step in list_steps(self._folder) if is_complete(self._step(step))]
        metrics = {step: metric_of(self._step(step), self._metric) for step in steps}
        delete(self._folder, metrics.keys() - kept(metrics, **self._keep))

    def _failed(self, step: int | None, error: Exception) -> Exception:
        """Returns the one-line error of a failed save, or `error` itself if another process of this run has ended."""
        if is_lost_connection(error):
            return error
        of_bucket = is_bucket(self._folder) and not isinstance(error, RunFailedError)
        why = storage_error(error, self._folder).strerror if of_bucket else reason(error)
        return RunFailedError(f"cannot write checkpoint {self._folder}/{step}: {why}; {self.describe_newest()}")

    def _newest_complete(self) -> int | None:
        """Returns the newest complete step. Sends no request to a bucket, because the bucket may not answer."""
        return self._sealed if is_bucket(self._folder) else newest_step(self._folder, complete=True)

    def _step(self, step: int) -> AnyPath:
        return self._folder / str(step)
