"""The checkpoint that a run resumes from: the newest good checkpoint in the workdir, if it belongs to this run."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

from focalnet_jax.checkpoint.integrity import MANIFEST, find_damage
from focalnet_jax.checkpoint.steps import SAVED, find_checkpoint, last_saved, list_steps, read_metadata, set_aside
from focalnet_jax.checkpoint.weights import AVERAGES, load_items
from focalnet_jax.config import default_config, flatten
from focalnet_jax.data.source import Source
from focalnet_jax.distributed.startup import anywhere, from_first, is_first
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.settings.tasks import TASKS
from focalnet_jax.training.stored_config import differences

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Found:
    """The newest good step of a directory of checkpoints, and newer steps that are damaged or unfinished."""

    folder: Path
    step: int | None
    others: dict[int, tuple[str, str]] = field(default_factory=dict)  # state in a word, and the reason

    def put_aside(self) -> None:
        """Renames damaged and unfinished steps, so that the run can write these steps again; nothing is deleted."""
        for step, (word, why) in self.others.items() if is_first() else ():
            try:
                aside = set_aside(self.folder / str(step), word)
            except OSError as error:
                raise UserError(
                    f"checkpoint {step} is {word} ({why}), and cannot be set aside: {error.strerror}; make "
                    f"{self.folder} writable, or choose another --workdir"
                ) from error
            on = "the run starts from the beginning" if self.step is None else f"the run resumes from step {self.step}"
            print(f"warning: checkpoint {step} is {word} ({why}): renamed to {aside.name}; {on}", file=sys.stderr)


def find_newest(folder: Path) -> Found:
    """Returns the newest step whose files are unchanged; each process verifies a part of the files.

    Raises:
      RunFailedError: there are checkpoints, and all of them are damaged or unfinished.
    """
    others: dict[int, tuple[str, str]] = {}
    steps = list_steps(folder) if is_first() else []
    while (step := int(from_first(steps.pop() if steps else -1))) >= 0:
        damage = find_damage(folder / str(step), part=jax.process_index(), parts=jax.process_count())
        if not anywhere(bool(damage)):
            return Found(folder, step, others)
        others[step] = _word(folder / str(step)), damage[0] if damage else "found by another process"
    words = [word for word, _ in others.values()]
    # A run that was killed at the end of its first save leaves one step without a manifest, never two.
    if "damaged" in words or words.count("unfinished") > 1:
        reasons = "; ".join(f"{step}: {why}" for step, (_, why) in others.items())
        raise RunFailedError(
            f"none of the checkpoints in {folder} is good ({reasons}). Nothing was changed: put back a copy, or move "
            "the folder away to start from the beginning"
        )
    return Found(folder, None, others)


def _word(step: Path) -> str:
    if (step / MANIFEST).exists():
        return "damaged"
    return "unfinished" if (step / "params").is_dir() else "foreign"


def check_saved(workdir: Path, found: Found) -> None:
    """Raises `RunFailedError` if all checkpoints of a run are missing; warns if only the newest is missing."""
    saved = last_saved(workdir)
    if found.step is not None and saved is not None and found.step < saved and saved not in found.others and is_first():
        print(f"warning: checkpoint {saved} is missing: the run resumes from step {found.step}", file=sys.stderr)
    if found.step is None and saved is not None:
        raise RunFailedError(
            f"{workdir} holds a run that saved step {saved}, but its checkpoints are missing: put them back (is a "
            f"disk not mounted?), or start from the beginning in another --workdir or without its file {SAVED}"
        )


def refuse_other_run(config: FrozenConfigDict, workdir: Path, newest: int | None) -> None:
    """Raises `UserError` if the workdir holds a run with a different config; the message names the keys that differ."""
    path = workdir / CONFIG_FILE
    if not path.exists():
        return
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
        differing = differences(config, stored)
        task = stored.get("task", config.task)
        known = flatten(default_config(task)).keys() if task in TASKS else ()
        # The evaluations have names of the user's choice.
        unknown = {key for key in flatten(ConfigDict(stored)) if not key.startswith("evaluations.")} - set(known)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): repair or remove it, or choose another --workdir") from error
    # A run that never saved cannot be resumed, so another config may start in its workdir.
    if newest is not None or unknown:
        _refuse(workdir, workdir, differing)


def identity(source: Source) -> dict[str, Any]:
    """Returns the identity of the data; checkpoints store it."""
    return {"fingerprint": source.fingerprint, "examples": len(source)}


def check_checkpoint(config: FrozenConfigDict, checkpoint: Path, source: Source) -> dict[str, Any]:
    """Returns the metadata of a run's checkpoint.

    Raises:
      UserError: the checkpoint belongs to a different config, or was trained on different data.
    """
    stored = read_metadata(checkpoint)
    if "config" not in stored:
        raise UserError(f"{checkpoint} holds converted weights, which cannot be resumed: move it out of the workdir")
    _refuse(checkpoint, checkpoint.parent.parent, differences(config, stored["config"]))
    ours, theirs = identity(source), dict(stored["data"])
    del theirs["substituted"]
    if theirs != ours:
        raise UserError(
            f"{checkpoint} was trained on other data, {theirs['examples']} examples with fingerprint "
            f"{theirs['fingerprint']}; the data given has {ours['examples']}, {ours['fingerprint']}. The order of "
            "examples would change: give the same data or another --workdir"
        )
    return stored


@dataclass(frozen=True)
class Origin:
    """The step of another run that this one continues."""

    checkpoint: Path
    metadata: dict[str, Any]

    def load(self, like: dict[str, Any]) -> dict[str, Any]:
        """Returns the items of the step on the devices; a missing average starts as a copy of the weights.

        Raises:
          UserError: the items do not fit this model and optimizer.
        """
        averages = {name: own for name, own in AVERAGES.items() if name in like}
        fresh = {name: own for name, own in averages.items() if not (self.checkpoint / name).is_dir()}
        try:
            items = load_items(self.checkpoint, {name: tree for name, tree in like.items() if name not in fresh})
        except UserError as error:
            raise UserError(
                f"continue_from: {error}. A run is continued with its own model and optimizer; init_from takes only "
                "weights"
            ) from error
        return items | {name: jax.tree.map(jnp.copy, items[own]) for name, own in fresh.items()}

    def describe(self, config: FrozenConfigDict, source: Source) -> list[str]:
        """Returns one text for each difference from the run that is continued."""
        keys = ("total_", "schedule.warmup_", "continue_from ", "init_from ", "init_head ")
        texts = [text for text in differences(config, self.metadata["config"]) if not text.startswith(keys)]
        theirs = {key: self.metadata["data"].get(key) for key in ("fingerprint", "examples")}
        if theirs != identity(source):
            texts.append(f"that run was trained on other data, {theirs['examples']} examples")
        return texts


def find_origin(path: str) -> Origin:
    """Returns the run to continue at `path`, a workdir or a step of it.

    Raises:
      UserError: there is no run at `path`, or its checkpoint holds only weights.
    """
    checkpoint = find_checkpoint(path)
    stored = read_metadata(checkpoint)
    if "config" not in stored or not checkpoint.name.isdecimal() or not (checkpoint / "training").is_dir():
        raise UserError(f"continue_from={path} holds weights, not a run that can be continued: give init_from={path}")
    return Origin(checkpoint, stored)


def _refuse(place: Path, workdir: Path, differing: list[str]) -> None:
    if not differing:
        return
    message = f"{place} holds a run of another config: {'; '.join(differing)}. Give its config or another --workdir"
    if any(text.startswith("total_") for text in differing):
        message += (
            ". A schedule that has begun is not stretched: to train longer, start a run in another --workdir, either "
            f"with --config.continue_from={workdir}, which takes weights, optimizer state and average, where "
            "total_epochs or total_steps counts the added steps and schedule.warmup_* begins their own schedule; "
            f"or with --config.init_from={workdir}, which takes only the weights"
        )
    raise UserError(message)
