"""A held-out split made from the training images, chosen by their file names alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from focalnet_jax.data.balance import labels_of
from focalnet_jax.data.decode import Picture
from focalnet_jax.data.prepare.naming import split_named
from focalnet_jax.data.sources import Label, Source, fingerprint_of, open_source
from focalnet_jax.errors import UserError

_WITHOUT_SPLITS = "."  # the split of a folder that holds class folders itself


class Part:
    """Some examples of a source, in its order; `names` are those of all its files, below the folder of the classes."""

    def __init__(self, whole: Source, names: Sequence[str], indices: np.ndarray, description: str):
        self._whole, self._indices = whole, indices
        self.class_names = whole.class_names
        self.empty = getattr(whole, "empty", {})  # class folders without images, see `check_examples`
        self.labels = labels_of(whole)[indices]
        self.description = description
        # By its own file names: an image that is added to the other part changes nothing here.
        self.fingerprint = fingerprint_of(names[index] for index in indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Picture, Label]:
        return self._whole[int(self._indices[index])]

    def name(self, index: int) -> str:
        """As the whole source names it."""
        return self._whole.name(int(self._indices[index]))


def open_split(data: ConfigDict | FrozenConfigDict, split: str) -> Source:
    """The split of a config's `data` section, made from the training images where `data.held_out` asks for that.

    With `held_out`, a folder without a folder for `eval_split` is divided: into what is held out and what is trained
    on. It may hold class folders itself (`PATH/CLASS/*.jpg`) in place of `PATH/train/CLASS/*.jpg`.

    Raises:
      UserError: as `open_source`; or the folder holds a split to evaluate on under another name.
    """
    asked = split in (data.train_split, data.eval_split) and data.source == "folder" and data.path
    if not (asked and data.held_out) or (Path(data.path) / data.eval_split).is_dir():
        return open_source(data.source, data.path, split)
    root = Path(data.path)
    within = data.train_split if (root / data.train_split).is_dir() else _WITHOUT_SPLITS
    if within == _WITHOUT_SPLITS and root.is_dir():
        others = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and split_named(entry.name))
        if others:
            raise UserError(
                f"{root} holds {', '.join(others)}, neither {data.train_split} nor {data.eval_split}: name them with "
                "--config.data.train_split and --config.data.eval_split, or give the folder that holds the classes"
            )
    beside = [] if within == _WITHOUT_SPLITS else _splits_beside(root, data.train_split)
    evaluated = [name for name in beside if split_named(name) == "val" or data.eval_split != "val"]
    if evaluated:
        raise UserError(
            f"{root} holds {', '.join(beside)} beside {data.train_split}, and no {data.eval_split}: evaluate on it "
            f"with --config.data.eval_split={evaluated[0]}, or move it away to hold out a part of {data.train_split}"
        )
    whole = open_source(data.source, data.path, within)
    prefix = len(os.path.join(root / within, ""))
    names = [whole.name(index)[prefix:] for index in range(len(whole))]
    held = choose(names, labels_of(whole), data.held_out)
    if not held.any():
        raise UserError(
            f"{root / within} has one image in each class, so none can be held out: add images, or make {root}/"
            f"{data.eval_split}"
        )
    description = (
        f"{held.sum()} of {len(whole)} images are held out for evaluation, chosen by their file names "
        f"(data.held_out={data.held_out}): there is no {root / data.eval_split}"
    )
    if beside:
        description += f"; {', '.join(beside)} is not used (--config.data.eval_split={beside[0]})"
    return Part(whole, names, np.flatnonzero(held if split == data.eval_split else ~held), description)


def _splits_beside(root: Path, split: str) -> list[str]:
    """The folders of other splits than `split`, by their names."""
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name != split)
    return [name for name in names if split_named(name)]


def choose(names: Sequence[str], labels: np.ndarray, share: float) -> np.ndarray:
    """Which examples are held out, `[N]` bool: those whose hashed name is under `share`.

    So another image changes nothing for those that are there. Of a class of two or more images at least one is held out
    and one is kept: the one with the lowest, or the highest, hash.
    """
    hashes = np.array([_hash(name) for name in names])
    held = hashes < share
    order = np.lexsort((hashes, labels))  # class by class, the lowest hash first
    firsts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    lasts = np.append(firsts[1:], len(order)) - 1
    held[order[firsts]] = True
    held[order[lasts]] = False  # of a single image too
    return held


def _hash(name: str) -> float:
    """A number in [0, 1) that a file name gives on every machine."""
    digest = hashlib.sha256(name.replace(os.sep, "/").encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:6]) / 2**48
