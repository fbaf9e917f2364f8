"""Checkpoints of a run, over Orbax's CheckpointManager.

A step is these items: `params`; `ema`, their average, where the run has one; `training`, the rest of the train state;
`metadata`, JSON with the resolved config; and the list of its files with their SHA-256, see `integrity`, without which
it is none.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from focalnet_jax.checkpoint.integrity import read_manifest, record_evaluation, seal
from focalnet_jax.checkpoint.steps import (
    FOLDER,
    SAVED,
    check_path,
    check_whole,
    clear,
    delete,
    is_complete,
    kept,
    list_steps,
    metric_of,
    newest_step,
)
from focalnet_jax.checkpoint.weights import Tree, abstract, check_same, quiet, reading, reason
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.system.files import write_whole

ITEMS = ("params", "ema", "statistics", "ema_statistics", "training", "metadata")


class Checkpoints:
    """The checkpoints of a workdir: the newest `keep_latest` and the `keep_best` with the highest figure `metric`.

    One run at a time may write there. All its processes make one of these; process 0 seals and deletes.
    """

    def __init__(self, workdir: Path, metric: str, *, keep_latest: int, keep_best: int):
        if keep_latest < 1:
            raise UserError(f"keep_latest={keep_latest}; expected at least 1, or nothing could be resumed")
        self._keep = {"latest": keep_latest, "best": keep_best}
        self._metric = metric
        self._workdir, self._folder = workdir, workdir.absolute() / FOLDER
        self._writes = jax.process_index() == 0
        check_path(workdir)
        _check_writable(self._folder)
        if self._writes:
            clear(self._folder)
        # Which steps are kept is decided here, where what a list of files says is known.
        self._manager = ocp.CheckpointManager(self._folder, item_names=ITEMS)
        self._settling: threading.Thread | None = None
        self._failure: Exception | None = None
        self.latest_step = newest_step(self._folder)

    def save(
        self, step: int, items: dict[str, Tree], metadata: dict[str, Any], evaluation: Mapping[str, Any] | None = None
    ) -> None:
        """Starts writing `items` in the background; returns when the arrays may be changed.

        To a step that exists nothing is added but what an evaluation said.

        Raises:
          RunFailedError: the save before this one failed, or this one cannot begin.
        """
        self.wait()
        if step == self.latest_step:
            if evaluation is not None and self._writes and read_manifest(self._step(step)).evaluation is None:
                record_evaluation(self._step(step), evaluation)
                self._delete_old()
            return
        # Orbax needs some .1 s for the arrays, however small they are. One process has them on the host and goes on;
        # several save together and hold no whole array: they wait for it.
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
        work = (step, tuple(items), arguments if alone else None, evaluation)
        self._settling = threading.Thread(target=self._settle, args=work, name="checkpoint")
        self._settling.start()

    def restore(self, step: int, like: dict[str, Tree]) -> dict[str, Tree]:
        """The items of a step, with the structure, dtypes and shardings of `like`; whether it is good was seen before.

        Raises:
          UserError: what the step holds is not this model's; names what differs.
          RunFailedError: the step cannot be read.
        """
        for name, tree in like.items():
            check_same(self._step(step), name, tree)
        trees = {name: ocp.args.StandardRestore(abstract(tree)) for name, tree in like.items()}
        with reading(self._step(step)):
            return dict(self._manager.restore(step, args=ocp.args.Composite(**trees)).items())

    def last_good(self) -> int | None:
        """The newest step that is whole, when what is being written is done."""
        if self._settling is not None:
            self._settling.join()
        return newest_step(self._folder, complete=True)

    def holds(self, step: int) -> bool:
        """Whether a step is on the disk by now."""
        return is_complete(self._step(step))

    def best_metric(self) -> float:
        """Returns the highest `metric` among the checkpoints, or minus infinity."""
        steps = map(self._step, list_steps(self._folder))
        return max((metric_of(step, self._metric) for step in steps), default=-math.inf)

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
          RunFailedError: it could not be written; the checkpoints before it are as they were.
        """
        if self._settling is not None:
            self._settling.join()
            self._settling = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise self._failed(self.latest_step, failure) from failure

    def close(self) -> None:
        """Waits for what is being written, whatever becomes of it (`wait` tells), and lets go of the directory."""
        if self._settling is not None:
            self._settling.join()
        with quiet(), contextlib.suppress(Exception):
            self._manager.close()

    def _begin(self, step: int, arguments: ocp.args.Composite) -> None:
        if not self._manager.save(step, args=arguments):
            raise RuntimeError("a newer step is there")

    def _settle(
        self,
        step: int,
        items: tuple[str, ...],
        arguments: ocp.args.Composite | None,
        evaluation: Mapping[str, Any] | None,
    ) -> None:
        """What is left to do in the background: Orbax's writing or the end of it, the list of files, old steps."""
        try:
            if arguments is not None:
                self._begin(step, arguments)
            self._manager.wait_until_finished()
            if self._writes:
                check_whole(self._step(step), items)
                seal(self._step(step), evaluation)
                write_whole(self._workdir / SAVED, json.dumps({"step": step}) + "\n")
                self._delete_old()
        except Exception as error:  # told to who saves or waits next
            self._failure = error

    def _delete_old(self) -> None:
        steps = [step for step in list_steps(self._folder) if is_complete(self._step(step))]
        metrics = {step: metric_of(self._step(step), self._metric) for step in steps}
        delete(self._folder, metrics.keys() - kept(metrics, **self._keep))

    def _failed(self, step: int | None, error: Exception) -> RunFailedError:
        good = newest_step(self._folder, complete=True)
        last = f"step {good} is the last good one" if good is not None else "there is none before it"
        return RunFailedError(f"cannot write checkpoint {self._folder}/{step}: {reason(error)}; {last}")

    def _step(self, step: int) -> Path:
        return self._folder / str(step)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write checkpoints to {folder}: {error.strerror}; choose another --workdir") from error
