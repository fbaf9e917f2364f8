"""Which images go to which shard: decided by the index alone, so that a stopped preparation goes on as it began."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import numpy as np

from focalnet_jax.data.prepare.containers import SPLITS, Index

_PIECE = 16  # images read in one go: about as many as a disk reads in the time it takes to seek
_LARGE = 100_000  # images from which on that matters; smaller splits are dealt one by one
_SEED = 0


@dataclass(frozen=True)
class Piece:
    """Some consecutive members of a container."""

    container: int
    members: np.ndarray


@dataclass(frozen=True)
class Shard:
    """A file to write."""

    split: str
    number: int
    count: int  # of the split's shards
    pieces: tuple[Piece, ...]


def make_plan(indices: Sequence[Index], classes: Sequence[str], *, held_out: float, shard_bytes: int) -> list[Shard]:
    """The shards of every split.

    Runs of images go to the shards in an order drawn once, so that any slice of a split is a fair sample of its
    classes, while archives are still read in runs.

    Args:
      indices: of all containers.
      classes: the names in order; images of others go nowhere.
      held_out: share of the training images that become the split `val`, by a hash of their classes and names.
      shard_bytes: about how large a shard is.
    """
    shards, listed = [], {name.encode() for name in classes}
    for split in range(len(SPLITS)):
        wanted = [_members(index, split, listed, held_out) for index in indices]
        piece = _PIECE if sum(map(len, wanted)) > _LARGE else 1
        pieces, sizes = [], []
        for number, (index, members) in enumerate(zip(indices, wanted, strict=True)):
            for start in range(0, len(members), piece):
                part = members[start : start + piece]
                pieces.append(Piece(number, part))
                sizes.append(int(index.members["size"][part].sum()))
        order = np.random.default_rng(_SEED).permutation(len(pieces))
        groups = list(_by_size([pieces[place] for place in order], [sizes[place] for place in order], shard_bytes))
        shards += [Shard(SPLITS[split], number, len(groups), tuple(group)) for number, group in enumerate(groups)]
    return shards


def _members(index: Index, split: int, listed: Set[bytes], held_out: float) -> np.ndarray:
    train, val = SPLITS.index("train"), SPLITS.index("val")
    held = (index.members["split"] == train) & (index.members["hash"] < held_out * 2**32)
    splits = np.where(held, val, index.members["split"])
    return np.flatnonzero((splits == split) & is_listed(index, listed))


def is_listed(index: Index, listed: Set[bytes]) -> np.ndarray:
    """Of every member whether its class is one of `listed`; a container has few classes, the list has many."""
    found, places = np.unique(index.members["class"], return_inverse=True)
    return np.array([name in listed for name in found.tolist()], bool)[places]


def _by_size(pieces: Sequence[Piece], sizes: Sequence[int], shard_bytes: int) -> Iterator[list[Piece]]:
    group, total = [], 0
    for piece, size in zip(pieces, sizes, strict=True):
        group.append(piece)
        total += size
        if total >= shard_bytes:
            yield group
            group, total = [], 0
    if group:
        yield group
