"""Lists, checks, selects and deletes the steps in a folder of checkpoints."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from focalnet_jax.checkpoint.integrity import MANIFEST, DamagedError, find_missing, is_step, read_manifest
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.settings import ranking_metric
from focalnet_jax.settings.tasks import task_of
from focalnet_jax.storage import files
from focalnet_jax.storage.address import AnyPath, absolute, is_bucket, refuse_mistyped, to_path
from focalnet_jax.storage.failures import StorageError, unreadable

FOLDER = "checkpoints"
SAVED = "saved.json"  # file in the workdir with the number of the last saved step; it reveals lost checkpoints
_LEAVING = ".deleting-"  # prefix of a step being deleted: renaming is immediate, deleting its files may take long
_UNFINISHED = ".orbax-checkpoint-tmp"  # suffix of a step being written
ITEMS = ("params", "ema", "statistics", "ema_statistics", "training", "metadata")
_WRITTEN_BY_ORBAX = (*ITEMS, "_CHECKPOINT_METADATA", "commit_success.txt", "_METADATA")


def list_steps(folder: AnyPath) -> list[int]:
    """Returns the numbers of all steps, complete or incomplete, in ascending order."""
    return sorted(int(entry.name) for entry in files.folders_in(folder) if is_step(entry))


def is_complete(step: AnyPath) -> bool:
    """Returns whether a step was written completely and all its files exist. Does not detect changed files."""
    return not find_missing(step)


def newest_step(folder: AnyPath, *, complete: bool = False) -> int | None:
    """Returns the newest completely written step, or None if there is no such step.

    With `complete`, steps with missing files are skipped.
    """
    counts = is_complete if complete else _was_written
    return next((step for step in reversed(list_steps(folder)) if counts(folder / str(step))), None)


def _was_written(step: AnyPath) -> bool:
    return files.is_file(step / MANIFEST)


def last_saved(workdir: AnyPath) -> int | None:
    """Returns the last saved step, from the workdir's `saved.json`.

    Returns None if the file is missing, and 0 if it is damaged.

    Raises:
      UserError: there is no permission to read a bucket.
      RunFailedError: a bucket does not answer.
    """
    try:
        return int(json.loads(files.read_text(workdir / SAVED))["step"])
    except FileNotFoundError:
        return None
    except StorageError as error:
        raise unreadable(workdir / SAVED, error) from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return 0


def check_path(path: AnyPath) -> None:
    """Raises `UserError` if Orbax cannot write checkpoints below a directory of this name."""
    if is_bucket(path):
        return
    name = str(path.absolute())
    if found := sorted(set("[]*?") & set(name)):
        raise UserError(
            f"{name}: checkpoints cannot be written below a directory with {' '.join(found)} in its name, which Orbax "
            "treats as a pattern: choose another"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = name.encode(errors="replace").decode()
        raise UserError(f"{shown}: checkpoints need a path that is valid UTF-8: choose another") from None


def check_writable(folder: Path) -> None:
    """Creates a folder on a disk for checkpoints. Raises `UserError` if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write checkpoints to {folder}: {error.strerror}; choose another --workdir") from error


def check_whole(step: AnyPath, items: Iterable[str]) -> None:
    """Checks that Orbax has written the arrays of every item, because Orbax may omit arrays without an error.

    Raises:
      OSError: the arrays of an item are missing.
    """
    names = {item: f"{item}/manifest.ocdbt" for item in items}
    written = files.sizes_of(step, names.values())
    missing = [item for item, name in names.items() if name not in written]
    if missing:
        raise OSError(f"the arrays of {', '.join(missing)} were not written")


def find_checkpoint(path: str) -> AnyPath:
    """Returns the directory of a checkpoint: the newest step of a workdir, or the given step itself.

    Raises:
      UserError: there is no checkpoint at `path`, or no permission to read it.
      RunFailedError: the checkpoint at `path` is damaged, or its bucket does not answer.
    """
    refuse_mistyped(path)
    given = absolute(to_path(path) if is_bucket(path) else Path(path))
    with files.answering(given):
        return _find_checkpoint(path, given)


def _find_checkpoint(path: str, given: AnyPath) -> AnyPath:
    if not path or not files.exists(given):
        raise UserError(f"there is no checkpoint at {path!r}; expected a workdir or one of its {FOLDER}/STEP")
    if _was_written(given):
        return given
    for folder in (given / FOLDER, given):
        newest = newest_step(folder)
        if newest is not None:
            return folder / str(newest)
    if files.exists(given / "params"):
        raise RunFailedError(f"checkpoint {given} is damaged ({find_missing(given)[0]}): choose another")
    raise UserError(
        f"{path} has no checkpoint; expected a workdir, one of its {FOLDER}/STEP, or a Hugging Face directory"
    )


def read_metadata(checkpoint: AnyPath) -> dict[str, Any]:
    """Returns the metadata of a step, see `Checkpoints.save`.

    Raises:
      UserError: there is no permission to read a bucket.
      RunFailedError: the metadata cannot be read.
    """
    try:
        return _metadata(checkpoint)
    except StorageError as error:
        raise unreadable(checkpoint, error) from error
    except (OSError, ValueError) as error:
        raise RunFailedError(f"checkpoint {checkpoint} is damaged (metadata: {error}): choose another") from error


def _metadata(checkpoint: AnyPath) -> dict[str, Any]:
    metadata = json.loads(files.read_text(checkpoint / "metadata" / "metadata"))
    if not isinstance(metadata, dict):
        raise ValueError("not a JSON object")
    return metadata


def ranking_metric_of(checkpoint: AnyPath) -> str:
    """Returns the name of the metric that ranks the steps of a run, from the task in the config of a checkpoint.

    Without a readable config, the task is taken to be classification. Raises `StorageError` if a bucket cannot be read.
    """
    try:
        config = _metadata(checkpoint).get("config")
    except StorageError:
        raise
    except (OSError, ValueError):  # damaged or missing
        config = None
    return ranking_metric(task_of(config))


def metric_of(checkpoint: AnyPath, metric: str) -> float:
    """Returns the value of `metric` at a step, or minus infinity if it is missing or NaN."""
    try:
        value = (read_manifest(checkpoint).evaluation or {}).get(metric)
    except DamagedError:
        value = None
    return -math.inf if value is None or math.isnan(value) else value


def kept(metrics: Mapping[int, float], latest: int, best: int) -> set[int]:
    """Returns the steps to keep: the `latest` newest steps and the `best` steps with the highest metrics.

    If metrics are equal, the older step is better. Steps whose metric is minus infinity are never among the best.
    """
    ranked = sorted((step for step in metrics if metrics[step] > -math.inf), key=lambda step: (-metrics[step], step))
    return set(sorted(metrics, reverse=True)[:latest]) | set(ranked[:best])


def delete(folder: AnyPath, steps: Iterable[int]) -> None:
    """Deletes steps. A kill leaves no step that looks complete; `remove_leftovers` then deletes the remaining files."""
    for step in steps:
        if is_bucket(folder):  # where a folder cannot be renamed at once
            files.remove(folder / str(step) / MANIFEST)
            files.remove_tree(folder / str(step))
            continue
        leaving = folder / f"{_LEAVING}{step}"
        files.remove_tree(leaving)
        (folder / str(step)).rename(leaving)
        files.remove_tree(leaving)


def remove_leftovers(folder: AnyPath) -> None:
    """Removes steps that a killed run left partly written or partly deleted.

    No other process may write to `folder` at the same time.
    """
    for entry in files.folders_in(folder):
        if (
            entry.name.startswith(_LEAVING)
            or (entry.name.endswith(_UNFINISHED) and entry.name[0].isdigit())
            or is_partial(entry)
        ):
            files.remove_tree(entry)


def is_partial(step: AnyPath) -> bool:
    """Returns whether a folder is a step in a bucket that was partly written by Orbax, or partly deleted.

    Such a step has no manifest. On a disk, the result is False, because Orbax gives such folders other names.
    """
    if not is_bucket(step) or not is_step(step):
        return False
    names = files.sizes(step)
    return MANIFEST not in names and all(name.split("/")[0] in _WRITTEN_BY_ORBAX for name in names)


def set_aside(step: AnyPath, word: str) -> AnyPath:
    """Renames the folder of a damaged, unfinished or foreign step, so that it is no longer a step.

    The new name is `STEP.WORD`, or `STEP.WORD-2` and so on if this name exists. Returns the new path.
    """
    aside, count = step.with_name(f"{step.name}.{word}"), 1
    while files.exists(aside):
        count += 1
        aside = step.with_name(f"{step.name}.{word}-{count}")
    return files.move(step, aside)
