"""Assigns images to shards. The assignment is deterministic, and the same for all kinds of containers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import numpy as np

from focalnet_jax.data.prepare.index import GOOD, Index
from focalnet_jax.data.prepare.naming import SPLITS

_PIECE = 16  # number of images read in sequence: about the number that a disk reads in the time of one seek
_LARGE = 100_000  # splits with more images are shuffled in pieces of `_PIECE` images, other splits image by image
_SEED = 0


@dataclass(frozen=True)
class Shard:
    """A shard to write."""

    split: str
    number: int  # index of the shard in its split
    count: int  # number of shards of the split
    # [N, 2] int32: index of the container, index of the member in it. For images with masks or objects, [N]: index of
    # the image.
    members: np.ndarray


def plan_shards(indices: Sequence[Index], classes: Sequence[str], *, held_out: float, shard_bytes: int) -> list[Shard]:
    """Returns the shards of every split.

    The images of a split are sorted by class and name, and divided into pieces: of 16 successive images in a large
    split, else of one image. The pieces are assigned to the shards in a fixed random order. Any range of examples is
    then a nearly random sample of the split, and large archives are still read in sequences.

    Args:
      indices: indices of all containers.
      classes: class names in order; images of other classes are not assigned.
      held_out: fraction of the training images to move to the split `val`, chosen by a hash of their file names.
      shard_bytes: approximate size of a shard in bytes.
    """
    shards, listed = [], {name.encode(): label for label, name in enumerate(classes)}
    for split in range(len(SPLITS)):
        members, sizes = _sorted_members(indices, split, listed, held_out)
        piece = _PIECE if len(members) > _LARGE else 1
        starts = np.arange(0, len(members), piece)
        order = np.random.default_rng(_SEED).permutation(len(starts))
        totals = np.add.reduceat(sizes, starts) if len(starts) else sizes
        groups = list(by_size(order, totals, shard_bytes))
        for number, group in enumerate(groups):
            runs = [members[starts[index] : starts[index] + piece] for index in group]
            shards.append(Shard(SPLITS[split], number, len(groups), np.concatenate(runs)))
    return shards


def _sorted_members(
    indices: Sequence[Index], split: int, listed: dict[bytes, int], held_out: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (container, member) indices `[N, 2]` and sizes in bytes `[N]` of a split, sorted by label and name."""
    places, labels, files, sizes = [], [], [], []
    for number, index in enumerate(indices):
        members = _members(index, split, listed.keys(), held_out)
        if not len(members):
            continue
        found, inverse = np.unique(index.members["class_name"][members], return_inverse=True)
        labels.append(np.array([listed[name] for name in found.tolist()], np.int32)[inverse])
        places.append(np.stack([np.full(len(members), number), members], axis=1).astype(np.int32))
        files.append(index.members["file"][members])
        sizes.append(index.members["size"][members])
    if not places:
        return np.zeros((0, 2), np.int32), np.zeros(0, np.int64)
    order = np.lexsort((np.concatenate(files), np.concatenate(labels)))  # stable: equal names keep their order
    return np.concatenate(places)[order], np.concatenate(sizes)[order]


def _members(index: Index, split: int, listed: Set[bytes], held_out: float) -> np.ndarray:
    train, val = SPLITS.index("train"), SPLITS.index("val")
    held = (index.members["split"] == train) & (index.members["hash"] < held_out * 2**32)
    splits = np.where(held, val, index.members["split"])
    return np.flatnonzero((splits == split) & is_example(index, listed))


def is_example(index: Index, listed: Set[bytes]) -> np.ndarray:
    """Returns whether each member is usable and has a class in `listed`, `[N]` bool."""
    # Looks up each distinct name once, because a container has few classes and many members.
    found, places = np.unique(index.members["class_name"], return_inverse=True)
    return np.array([name in listed for name in found.tolist()], bool)[places] & (index.members["why_not"] == GOOD)


def by_size(order: np.ndarray, totals: np.ndarray, shard_bytes: int) -> Iterator[list[int]]:
    """Yields `order` in groups of successive indices. A group ends when its sum of `totals` reaches `shard_bytes`."""
    group, size = [], 0
    for index in order.tolist():
        group.append(index)
        size += int(totals[index])
        if size >= shard_bytes:
            yield group
            group, size = [], 0
    if group:
        yield group
