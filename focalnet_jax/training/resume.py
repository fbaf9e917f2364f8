"""Finds the checkpoint that a run resumes from: the newest good one in the workdir, if it belongs to this run."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

from focalnet_jax.checkpoint.integrity import MANIFEST, find_damage
from focalnet_jax.checkpoint.steps import (
    SAVED,
    find_checkpoint,
    is_partial,
    last_saved,
    list_steps,
    read_metadata,
    set_aside,
)
from focalnet_jax.checkpoint.weights import AVERAGES, has_item, load_items
from focalnet_jax.config import default_config, flatten
from focalnet_jax.data.source import Source
from focalnet_jax.distributed.host_values import anywhere, from_first
from focalnet_jax.distributed.startup import is_first
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.hub.address import is_address
from focalnet_jax.settings.tasks import TASKS
from focalnet_jax.storage.address import AnyPath, is_bucket
from focalnet_jax.storage.failures import StorageError, unreadable
from focalnet_jax.storage.files import answering, exists, is_folder, read_text
from focalnet_jax.training.stored_config import differences

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Found:
    """The newest good step in a folder of checkpoints.

    Attributes:
      folder: folder of the checkpoints.
      step: number of the newest good step, or None if there is no good step.
      others: newer steps that are not good, by number: "damaged", "unfinished" or "foreign" (not a checkpoint), and
        the reason.
    """

    folder: AnyPath
    step: int | None
    others: dict[int, tuple[str, str]] = field(default_factory=dict)

    def put_aside(self) -> None:
        """Renames the steps in `others`, so that the run can write these steps again.

        Nothing is deleted, except unfinished steps in a bucket, which `Checkpoints` removes.
        """
        for step, (word, why) in self.others.items() if is_first() else ():
            if word == "unfinished" and is_bucket(self.folder):
                continue
            try:
                aside = set_aside(self.folder / str(step), word)
            except StorageError as error:
                raise unreadable(self.folder / str(step), error) from error
            except OSError as error:
                raise UserError(
                    f"checkpoint {step} is {word} ({why}) and cannot be renamed: {error.strerror}; make "
                    f"{self.folder} writable, or choose another --workdir"
                ) from error
            on = "the run starts from the beginning" if self.step is None else f"the run resumes from step {self.step}"
            print(f"warning: checkpoint {step} is {word} ({why}): renamed to {aside.name}; {on}", file=sys.stderr)


def find_newest(folder: AnyPath) -> Found:
    """Returns the newest step whose files are undamaged, and the newer steps, which are not good, see `Found`.

    Each process verifies some of the files.

    Raises:
      UserError: there is no permission to read a bucket.
      RunFailedError: no step is undamaged, and at least one step is damaged or more than one is unfinished; or a bucket
        does not answer.
    """
    with answering(folder):
        return _find_newest(folder)


def _find_newest(folder: AnyPath) -> Found:
    others: dict[int, tuple[str, str]] = {}
    steps = list_steps(folder) if is_first() else []
    while (step := int(from_first(steps.pop() if steps else -1))) >= 0:
        damage = find_damage(folder / str(step), part=jax.process_index(), parts=jax.process_count())
        if not anywhere(bool(damage)):
            return Found(folder, step, others)
        others[step] = _word(folder / str(step)), damage[0] if damage else "found by another process"
    words = [word for word, _ in others.values()]
    # A run that was killed during its first save leaves one step without a manifest, and starts again.
    if "damaged" in words or words.count("unfinished") > 1:
        reasons = "; ".join(f"{step}: {why}" for step, (_, why) in others.items())
        raise RunFailedError(
            f"all checkpoints in {folder} are damaged or unfinished ({reasons}). Nothing was changed: restore a copy, "
            "or move the folder away to start from the beginning"
        )
    return Found(folder, None, others)


def _word(step: AnyPath) -> str:
    if exists(step / MANIFEST):
        return "damaged"
    return "unfinished" if is_folder(step / "params") or is_partial(step) else "foreign"


def check_saved(workdir: AnyPath, found: Found) -> None:
    """Raises `RunFailedError` if all checkpoints of a run are missing, and warns if only the newest is missing."""
    saved = last_saved(workdir)
    if found.step is not None and saved is not None and found.step < saved and saved not in found.others and is_first():
        print(f"warning: checkpoint {saved} is missing: the run resumes from step {found.step}", file=sys.stderr)
    if found.step is None and saved is not None:
        raise RunFailedError(
            f"the run in {workdir} saved step {saved}, but its checkpoints are missing: restore them (is a disk not "
            f"mounted?), or start from the beginning in another --workdir or after removing {SAVED}"
        )


def refuse_other_run(config: FrozenConfigDict, workdir: AnyPath, newest: int | None) -> None:
    """Raises `UserError` if the workdir has a run with a different config.

    The message names the keys that differ. A run without a checkpoint may be replaced by another one, unless its config
    has unknown keys.
    """
    path = workdir / CONFIG_FILE
    with answering(path):
        if not exists(path):
            return
    try:
        stored: dict[str, Any] = json.loads(read_text(path))
        differing = differences(config, stored)
        task = stored.get("task", config.task)
        known = flatten(default_config(task)).keys() if task in TASKS else ()
        # Evaluations are not unknown keys: the user chooses their names.
        unknown = {key for key in flatten(ConfigDict(stored)) if not key.startswith("evaluations.")} - set(known)
    except StorageError as error:
        raise unreadable(path, error) from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): repair or remove it, or choose another --workdir") from error
    # A run that never saved cannot be resumed, so another config may start in its workdir.
    if newest is not None or unknown:
        _refuse(workdir, workdir, differing)


def identity(source: Source) -> dict[str, Any]:
    """Returns the fingerprint and the number of examples of the data, as stored in checkpoints."""
    return {"fingerprint": source.fingerprint, "examples": len(source)}


def data_of(metadata: dict[str, Any]) -> dict[str, Any]:
    """Returns the entry `data` of a checkpoint's metadata (`identity` and `substituted`), or {} if it is missing."""
    return metadata.get("data", {})


def check_checkpoint(config: FrozenConfigDict, checkpoint: AnyPath, source: Source) -> dict[str, Any]:
    """Returns the metadata of a run's checkpoint.

    Raises:
      UserError: the checkpoint contains only weights, its run has a different config or different data, or its
        metadata lacks the identity of the data.
    """
    stored = read_metadata(checkpoint)
    if "config" not in stored:
        raise UserError(f"{checkpoint} contains only weights, which cannot be resumed: move it out of the workdir")
    _refuse(checkpoint, checkpoint.parent.parent, differences(config, stored["config"]))
    ours = identity(source)
    theirs = {key: data_of(stored).get(key) for key in ours}
    if missing := [f"data.{key}" for key, value in theirs.items() if value is None]:
        raise UserError(
            f"the metadata of {checkpoint} lacks {' and '.join(missing)}, so its data cannot be compared with the "
            f"given data: start a run in another --workdir with --config.continue_from={checkpoint.parent.parent}"
        )
    if theirs != ours:
        raise UserError(
            f"{checkpoint} was trained on other data ({theirs['examples']} examples with fingerprint "
            f"{theirs['fingerprint']}) than the given data ({ours['examples']} examples with fingerprint "
            f"{ours['fingerprint']}): give the same data or another --workdir"
        )
    return stored


@dataclass(frozen=True)
class Origin:
    """The checkpoint of another run that this run continues, see `continue_from`."""

    checkpoint: AnyPath
    metadata: dict[str, Any]

    @property
    def data(self) -> dict[str, Any]:
        """See `data_of`."""
        return data_of(self.metadata)

    def load(self, like: dict[str, Any]) -> dict[str, Any]:
        """Returns the items of the checkpoint, with the structure, dtypes and shardings of `like`.

        If the checkpoint has no average, the average starts as a copy of the weights.

        Raises:
          UserError: the items do not fit this model and optimizer.
        """
        averages = {name: own for name, own in AVERAGES.items() if name in like}
        fresh = {name: own for name, own in averages.items() if not has_item(self.checkpoint, name)}
        try:
            items = load_items(self.checkpoint, {name: tree for name, tree in like.items() if name not in fresh})
        except UserError as error:
            raise UserError(
                f"continue_from: {error}. Give the model and optimizer of that run, or init_from to take only its "
                "weights"
            ) from error
        return items | {name: jax.tree.map(jnp.copy, items[own]) for name, own in fresh.items()}

    def describe(self, config: FrozenConfigDict, source: Source) -> list[str]:
        """Returns one line for each difference from the run that is continued."""
        keys = ("total_", "schedule.warmup_", "continue_from ", "init_from ", "init_head ")
        texts = [text for text in differences(config, self.metadata["config"]) if not text.startswith(keys)]
        ours = identity(source)
        theirs = {key: self.data.get(key) for key in ours}
        if missing := [f"data.{key}" for key, value in theirs.items() if value is None]:
            texts.append(f"the data cannot be compared, because the metadata of that run lacks {' and '.join(missing)}")
        elif theirs != ours:
            texts.append(f"that run was trained on other data, {theirs['examples']} examples")
        return texts


def find_origin(path: str) -> Origin:
    """Returns the checkpoint to continue from. `path` is a workdir or one of its steps.

    Raises:
      UserError: there is no run at `path`, or its checkpoint contains only weights.
    """
    if is_address(path):
        raise UserError(
            f"continue_from={path} is on the Hugging Face Hub, which stores weights, not runs: give init_from={path}"
        )
    checkpoint = find_checkpoint(path)
    stored = read_metadata(checkpoint)
    if "config" not in stored or not checkpoint.name.isdecimal() or not has_item(checkpoint, "training"):
        raise UserError(f"continue_from={path} contains only weights and cannot be continued: give init_from={path}")
    return Origin(checkpoint, stored)


def _refuse(path: AnyPath, workdir: AnyPath, differing: list[str]) -> None:
    if not differing:
        return
    message = f"{path} has a run with another config: {'; '.join(differing)}. Give its config or another --workdir"
    if any(text.startswith("total_") for text in differing):
        message += (
            ". The schedule of a run cannot be extended. To train longer, start a run in another --workdir: "
            f"--config.continue_from={workdir} takes weights, optimizer state and average, and starts a new schedule "
            "(total_* and schedule.warmup_* count from its last step); "
            f"--config.init_from={workdir} takes only the weights"
        )
    raise UserError(message)
