"""Checkpoints of a run, over Orbax's CheckpointManager.

A step is these items: `params`; `ema`, their average, where the run has one; `training`, the rest of the train state;
`metadata`, JSON with the resolved config. A step becomes visible only when it is complete. Who reads a step for its
weights gets the average where there is one.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.paths import named_leaves

BEST_METRIC = "eval/top1"
FOLDER = "checkpoints"
ITEMS = ("params", "ema", "training", "metadata")
Tree = Any


class Checkpoints:
    """The checkpoints of a workdir: the newest `keep_latest` and the `keep_best` with the highest eval/top1."""

    def __init__(self, workdir: Path, *, keep_latest: int, keep_best: int):
        if keep_latest < 1:
            raise UserError(f"keep_latest={keep_latest}; expected at least 1, or nothing could be resumed")
        keep = [policies.LatestN(keep_latest)]
        if keep_best > 0:
            keep.append(policies.BestN(get_metric_fn=_best_metric, n=keep_best, keep_checkpoints_without_metrics=False))
        self._folder = workdir.absolute() / FOLDER
        _check_folder(self._folder)
        self._manager = ocp.CheckpointManager(
            self._folder,
            item_names=ITEMS,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(keep), best_fn=_best_metric
            ),
        )
        self.latest_step: int | None = self._manager.latest_step()

    def save(self, step: int, items: dict[str, Tree], metadata: dict[str, Any], metrics: dict[str, Any] | None) -> None:
        """Starts writing `items` in the background; returns when the arrays may be changed.

        A step that exists is written again only to add metrics to it.
        """
        if step == self.latest_step:
            if metrics is None or self._manager.metrics(step) is not None:
                return
            self._manager.delete(step)
        trees = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        self._manager.save(
            step, args=ocp.args.Composite(**trees, metadata=ocp.args.JsonSave(metadata)), metrics=metrics
        )
        self.latest_step = step

    def restore(self, step: int, like: dict[str, Tree]) -> dict[str, Tree]:
        """The items of a step, with the structure, dtypes and shardings of `like`.

        Raises:
          UserError: the step's parameters are not those of this model; names the differing ones.
          RunFailedError: the step is damaged.
        """
        _check_same(self._folder / str(step), "params", named_leaves(like["params"]))
        trees = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in like.items()}
        with _reading(self._folder / str(step)):
            return dict(self._manager.restore(step, args=ocp.args.Composite(**trees)).items())

    def best_metric(self) -> float:
        """The highest eval/top1 among the checkpoints, or minus infinity."""
        best = self._manager.best_step()
        return -math.inf if best is None else _best_metric(self._manager.metrics(best))

    def wait(self) -> None:
        """Returns when everything is on disk; raises what went wrong while writing."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for what is being written and lets go of the directory."""
        self._manager.close()


def find_checkpoint(path: str) -> Path:
    """The directory of a step: of the newest one for a workdir, or the step's own.

    Raises:
      UserError: there is none at `path`.
    """
    given = Path(path).absolute()
    if not path or not given.exists():
        raise UserError(f"there is no checkpoint at {path!r}; expected a workdir or one of its {FOLDER}/STEP")
    if _is_complete(given):
        return given
    for folder in (given / FOLDER, given):
        newest = newest_step(folder)
        if newest is not None:
            return folder / str(newest)
    raise UserError(
        f"{path} holds no checkpoint; expected a workdir, one of its {FOLDER}/STEP, or a Hugging Face directory"
    )


def newest_step(folder: Path) -> int | None:
    """The newest complete step in a directory of steps."""
    return max(
        (int(entry.name) for entry in folder.glob("*/") if _is_step(entry) and _is_complete(entry)), default=None
    )


def weights_item(checkpoint: Path) -> str:
    """Which item of a step is its result: the average where there is one."""
    return "ema" if (checkpoint / "ema").is_dir() else "params"


def read_metadata(checkpoint: Path) -> dict[str, Any]:
    """What a step says about itself, see `Checkpoints.save`."""
    with _reading(checkpoint):
        return json.loads((checkpoint / "metadata" / "metadata").read_text())


def _is_step(entry: Path) -> bool:
    return entry.name.isdigit()


def _is_complete(step: Path) -> bool:
    return all((step / item).is_dir() for item in ("params", "metadata"))


def _check_folder(folder: Path) -> None:
    """Refuses a directory of steps that cannot be written or holds something else."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write checkpoints to {folder}: {error.strerror}; choose another --workdir") from error
    for entry in folder.glob("*/"):
        if _is_step(entry) and not _is_complete(entry):
            raise UserError(f"{entry} is no complete checkpoint: remove it")


def save_params(folder: Path, params: Tree, metadata: dict[str, Any]) -> None:
    """Writes `params` and `metadata` alone to `folder`: a step to load or start from, not to resume."""
    (folder / "metadata").mkdir(parents=True)
    (folder / "metadata" / "metadata").write_text(json.dumps(metadata))
    try:
        with _quiet(), ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder.absolute() / "params", params)
    except (ValueError, RuntimeError) as error:  # how tensorstore reports a full disk
        raise OSError(_reason(error)) from error


def read_params(checkpoint: Path, like: Tree) -> Tree:
    """The parameters of a step as NumPy arrays, with the structure of `like`; errors as `load_params`."""
    item = weights_item(checkpoint)
    _check_same(checkpoint, item, named_leaves(like))
    arguments = ocp.args.PyTreeRestore(
        item=like, restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    )
    with _reading(checkpoint), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(checkpoint / item, args=arguments)


@contextmanager
def _reading(checkpoint: Path) -> Iterator[None]:
    """Reports what goes wrong while reading as a damaged checkpoint, once: `RunFailedError`."""
    try:
        with _quiet():
            yield
    except PermissionError as error:
        raise UserError(f"cannot read checkpoint {checkpoint}: {error.strerror}") from error
    except (ValueError, KeyError, OSError, RuntimeError, AttributeError) as error:
        advice = ": remove it to go on from the one before" if checkpoint.parent.name == FOLDER else ""
        raise RunFailedError(f"checkpoint {checkpoint} is damaged ({_reason(error)}){advice}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax's warnings, and after an error the complaints of tensorstore's threads, from stderr.

    Those threads may complain until the process ends: programs keep them quiet throughout, see `run_command`.
    """
    hooks = sys.unraisablehook, threading.excepthook
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    sys.unraisablehook = threading.excepthook = lambda *_: None
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        sys.unraisablehook, threading.excepthook = hooks
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def load_params(checkpoint: Path, like: Tree, *, head: str = "keep") -> Tree:
    """The parameters of a step, with the structure, dtypes and shardings of `like`.

    Args:
      checkpoint: a step's directory, see `find_checkpoint`.
      like: parameters of the model to fill.
      head: "keep" takes the classifier from the checkpoint, "drop" leaves it out.

    Raises:
      UserError: the parameters differ in name or shape; names the differing ones.
    """
    wanted = {name: value for name, value in like.items() if head == "keep" or name != "head"}
    item = weights_item(checkpoint)
    _check_same(checkpoint, item, named_leaves(wanted), ignored="head/" if head == "drop" else None)
    arguments = ocp.args.PyTreeRestore(
        item=wanted,
        restore_args=ocp.checkpoint_utils.construct_restore_args(_abstract(wanted)),
        partial_restore=head == "drop",
    )
    with _reading(checkpoint), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(checkpoint / item, args=arguments)


def _check_same(checkpoint: Path, item: str, wanted: dict[str, jax.Array], ignored: str | None = None) -> None:
    """Compares names, shapes and dtypes of a step's parameters with those of the model."""
    with _reading(checkpoint), ocp.StandardCheckpointer() as checkpointer:
        stored = named_leaves(checkpointer.metadata(checkpoint / item).item_metadata.tree)
    theirs = {
        name: f"{tuple(leaf.shape)} {leaf.dtype}"
        for name, leaf in stored.items()
        if ignored is None or not name.startswith(ignored)
    }
    ours = {name: f"{leaf.shape} {leaf.dtype}" for name, leaf in wanted.items()}
    differing = [
        f"{name} is {theirs.get(name, 'missing')} there and {ours.get(name, 'missing')} in the model"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        advice = ""
        if all(text.startswith("head/") for text in differing):
            advice = "; only the classifier differs: match model.num_classes, or train from it with init_head=drop"
        raise UserError(f"{checkpoint} does not fit the model: {'; '.join(differing[:3])}{more}{advice}")


def _abstract(tree: Tree) -> Tree:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


def _best_metric(metrics: dict[str, Any] | None) -> float:
    """The value steps are ranked by; a missing or undefined one ranks last."""
    value = (metrics or {}).get(BEST_METRIC, math.nan)
    return -math.inf if math.isnan(value) else value
