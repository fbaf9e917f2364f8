"""The steps in a directory of checkpoints: which there are, which are whole, which are kept, how they go."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from focalnet_jax.checkpoint.integrity import MANIFEST, DamagedError, find_missing, is_step, read_manifest
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.settings import settings_of
from focalnet_jax.settings.tasks import TASKS

FOLDER = "checkpoints"
SAVED = "saved.json"  # in the workdir: which step was saved last, whatever becomes of the checkpoints
_LEAVING = ".deleting-"  # the name of a step that goes begins with it: it goes at once, however long its files take
_UNFINISHED = ".orbax-checkpoint-tmp"  # and that of one being written ends with this


def list_steps(folder: Path) -> list[int]:
    """All steps that have a directory, whole or not, the newest last: by number, whatever the clock said."""
    return sorted(int(entry.name) for entry in folder.glob("*/") if is_step(entry))


def is_complete(step: Path) -> bool:
    """Whether a step was written to its end and all of it is there; not whether it is unchanged."""
    return not find_missing(step)


def newest_step(folder: Path, *, complete: bool = False) -> int | None:
    """The newest step that was written to its end; with `complete`, of which all is still there."""
    whole = is_complete if complete else _was_written
    return next((step for step in reversed(list_steps(folder)) if whole(folder / str(step))), None)


def _was_written(step: Path) -> bool:
    return (step / MANIFEST).is_file()


def last_saved(workdir: Path) -> int | None:
    """The step that was saved last in a workdir; None if none was. 0 where that cannot be read."""
    try:
        return int(json.loads((workdir / SAVED).read_text())["step"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return 0


def check_path(path: Path) -> None:
    """Refuses a directory whose name checkpoints cannot be written below: `UserError`."""
    name = str(path.absolute())
    if found := sorted(set("[]*?") & set(name)):
        raise UserError(
            f"{name}: checkpoints cannot be written below a name with {' '.join(found)}, which Orbax takes for a "
            "pattern: choose another"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = name.encode(errors="replace").decode()
        raise UserError(f"{shown}: its name is not UTF-8, as checkpoints need it: choose another") from None


def check_whole(step: Path, items: Iterable[str]) -> None:
    """Looks whether Orbax has put the arrays of every item in its place, which it may leave out without a word.

    Raises:
      OSError: it has not.
    """
    missing = [item for item in items if not (step / item / "manifest.ocdbt").is_file()]
    if missing:
        raise OSError(f"the arrays of {', '.join(missing)} were not written")


def find_checkpoint(path: str) -> Path:
    """The directory of a step: of the newest one for a workdir, or the step's own.

    Raises:
      UserError: there is none at `path`.
    """
    given = Path(path).absolute()
    if not path or not given.exists():
        raise UserError(f"there is no checkpoint at {path!r}; expected a workdir or one of its {FOLDER}/STEP")
    if _was_written(given):
        return given
    for folder in (given / FOLDER, given):
        newest = newest_step(folder)
        if newest is not None:
            return folder / str(newest)
    if (given / "params").is_dir():
        raise RunFailedError(f"checkpoint {given} is damaged ({find_missing(given)[0]})")
    raise UserError(
        f"{path} holds no checkpoint; expected a workdir, one of its {FOLDER}/STEP, or a Hugging Face directory"
    )


def read_metadata(checkpoint: Path) -> dict[str, Any]:
    """What a step says about itself, see `Checkpoints.save`.

    Raises:
      RunFailedError: it cannot be read.
    """
    try:
        metadata = json.loads((checkpoint / "metadata" / "metadata").read_text())
        if not isinstance(metadata, dict):
            raise ValueError("no object")
        return metadata
    except (OSError, ValueError) as error:
        raise RunFailedError(f"checkpoint {checkpoint} is damaged (its metadata: {error})") from error


def best_metric(checkpoint: Path) -> str:
    """Returns the name of the figure that ranks a step among those of its run, by the task that its config names."""
    try:
        task = (read_metadata(checkpoint).get("config") or {}).get("task", TASKS[0])
    except RunFailedError:
        task = TASKS[0]
    return f"eval/{settings_of(task).BEST_METRIC}"


def metric_of(checkpoint: Path, metric: str) -> float:
    """Returns the figure of a step that ranks it; minus infinity if it is missing or NaN."""
    try:
        value = (read_manifest(checkpoint).evaluation or {}).get(metric)
    except DamagedError:
        value = None
    return -math.inf if value is None or math.isnan(value) else value


def kept(metrics: Mapping[int, float], latest: int, best: int) -> set[int]:
    """Of steps with their metrics, the `latest` newest and the `best` highest; of equals the older."""
    ranked = sorted((step for step in metrics if metrics[step] > -math.inf), key=lambda step: (-metrics[step], step))
    return set(sorted(metrics, reverse=True)[:latest]) | set(ranked[:best])


def delete(folder: Path, steps: Iterable[int]) -> None:
    """Deletes steps; killed in the middle it leaves none that looks whole, and the next one ends its work."""
    for step in steps:
        leaving = folder / f"{_LEAVING}{step}"
        shutil.rmtree(leaving, ignore_errors=True)
        (folder / str(step)).rename(leaving)
        shutil.rmtree(leaving, ignore_errors=True)


def clear(folder: Path) -> None:
    """Removes what a killed run left half written or half deleted; nobody else may be writing there."""
    for entry in folder.glob("*/"):
        if entry.name.startswith(_LEAVING) or (entry.name.endswith(_UNFINISHED) and entry.name[0].isdigit()):
            shutil.rmtree(entry, ignore_errors=True)


def set_aside(step: Path, word: str) -> Path:
    """Renames a step that is no checkpoint to `STEP.word`, so that it is no more in the way; returns its new name."""
    aside, count = step.with_name(f"{step.name}.{word}"), 1
    while aside.exists():
        count += 1
        aside = step.with_name(f"{step.name}.{word}-{count}")
    return step.rename(aside)
