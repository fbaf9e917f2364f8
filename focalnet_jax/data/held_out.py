"""An evaluation split held out from the training images, chosen by hashes of their file names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from focalnet_jax.data.balance import labels_of
from focalnet_jax.data.decode import Picture
from focalnet_jax.data.source import Label, Source, fingerprint_of
from focalnet_jax.data.sources import SourceOptions, open_source
from focalnet_jax.data.split_names import split_named
from focalnet_jax.data.staged import local_folder
from focalnet_jax.errors import UserError

_WITHOUT_SPLITS = "."  # name of the split if the folder contains the class folders directly


class Part:
    """A subset of a source, in the order of the source.

    Args:
      whole: source that contains the subset.
      names: paths of all files of the source, relative to the folder that contains the class folders.
      indices: indices in the source of the examples of the subset, `[M]`.
      description: description of the subset, for messages.
    """

    def __init__(self, whole: Source, names: Sequence[str], indices: np.ndarray, description: str):
        self._whole, self._indices = whole, indices
        self.class_names = whole.class_names
        self.empty = getattr(whole, "empty", {})  # class folders without images, see `check_examples`
        self.labels = labels_of(whole)[indices]
        self.description = description
        # Depends only on the file names of this subset: images added to the other subset do not change it.
        self.fingerprint = fingerprint_of(names[index] for index in indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Picture, Label]:
        return self._whole[int(self._indices[index])]

    def name(self, index: int) -> str:
        """Returns the name of an example of this subset, as in the whole source."""
        return self._whole.name(int(self._indices[index]))


def open_split(data: ConfigDict | FrozenConfigDict, split: str) -> Source:
    """Opens a split of the data set that a config's `data` section describes.

    If `data.held_out` is set and a folder source has no folder for `data.eval_split`, the training images are divided
    into training and evaluation images. `data.path` may then contain the class folders directly (`PATH/CLASS/*.jpg`
    instead of `PATH/train/CLASS/*.jpg`). Parquet files and WebDataset shards are divided by `ShardedSource`.

    Raises:
      UserError: the source cannot be opened, the folder contains an evaluation split under a different name, or no
        image can be held out.
    """
    divided = split in (data.train_split, data.eval_split) and data.source == "folder" and data.path
    if not (divided and data.held_out):
        return open_source(data.source, data.path, split, SourceOptions.of(data))

    def needed(folders: Collection[str]) -> str | None:
        if data.eval_split in folders:
            return split
        if data.train_split in folders:
            return data.train_split
        return None if any(map(split_named, folders)) else _WITHOUT_SPLITS

    with local_folder(data.path, data.cache, needed) as root:
        if (Path(root) / data.eval_split).is_dir():
            return open_source(data.source, data.path, split, SourceOptions.of(data))
        return _open_part(data, Path(root), split)


def _open_part(data: ConfigDict | FrozenConfigDict, root: Path, split: str) -> Source:
    """Returns the training or evaluation part of the training images in the folder `root`."""
    within = data.train_split if (root / data.train_split).is_dir() else _WITHOUT_SPLITS
    if within == _WITHOUT_SPLITS and root.is_dir():
        others = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and split_named(entry.name))
        if others:
            raise UserError(
                f"{root} contains {', '.join(others)} but neither {data.train_split} nor {data.eval_split}: set the "
                "splits with --config.data.train_split and --config.data.eval_split, or set --config.data.path to the "
                "folder that contains the classes"
            )
    other_splits = [] if within == _WITHOUT_SPLITS else _find_other_splits(root, data.train_split)
    evaluated = [name for name in other_splits if split_named(name) == "val" or data.eval_split != "val"]
    if evaluated:
        raise UserError(
            f"{root} contains {', '.join(other_splits)} next to {data.train_split}, but no {data.eval_split}: evaluate "
            f"with --config.data.eval_split={evaluated[0]}, or move {evaluated[0]} away to hold out a part of "
            f"{data.train_split}"
        )
    whole = open_source(data.source, str(root), within)
    prefix = len(os.path.join(root / within, ""))
    names = [whole.name(index)[prefix:] for index in range(len(whole))]
    held = choose(names, labels_of(whole), data.held_out)
    if not held.any():
        raise UserError(
            f"{root / within} has one image in each class, so none can be held out: add images, or create {root}/"
            f"{data.eval_split}"
        )
    description = (
        f"{held.sum()} of {len(whole)} images are held out for evaluation, chosen by their file names "
        f"(data.held_out={data.held_out}), because there is no {os.path.join(data.path, data.eval_split)}"
    )
    if other_splits:
        description += f"; {', '.join(other_splits)} is not used (--config.data.eval_split={other_splits[0]})"
    return Part(whole, names, np.flatnonzero(held if split == data.eval_split else ~held), description)


def _find_other_splits(root: Path, split: str) -> list[str]:
    """Returns the names of the folders in `root` that are named like splits, except `split`."""
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name != split)
    return [name for name in names if split_named(name)]


def choose(names: Sequence[str], labels: np.ndarray, share: float) -> np.ndarray:
    """Chooses examples to hold out, by hashes of their names.

    An example is held out if its hash is below `share`, with two exceptions. The image with the highest hash of a class
    is never held out. If the class has more images, the one with the lowest hash is always held out.

    Adding images to a class does not change which of the previous images are held out, unless an added image has the
    lowest or highest hash of the class.

    Args:
      names: file names of all examples.
      labels: labels of all examples, `[N]`.
      share: fraction of the examples to hold out, in [0, 1].

    Returns:
      Whether each example is held out, `[N]` bool.
    """
    hashes = np.array([_hash(name) for name in names])
    held = hashes < share
    order = np.lexsort((hashes, labels))  # grouped by class, in order of hashes
    firsts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    lasts = np.append(firsts[1:], len(order)) - 1
    held[order[firsts]] = True
    held[order[lasts]] = False  # also in a class of one image
    return held


def _hash(name: str) -> float:
    """Returns a hash of a file name in [0, 1), the same on every machine."""
    digest = hashlib.sha256(name.replace(os.sep, "/").encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:6]) / 2**48
