"""Which images go to which shard: decided by the index alone, so that a stopped preparation goes on as it began."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from focalnet_jax.data.prepare.containers import SPLITS, Index

_PIECE = 16  # images read in one go: about as many as a disk reads in the time it takes to seek
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

    Runs of images go to the shards in an order drawn once, so that every part of a split holds all its classes and a
    slice of it is a fair sample, while archives are still read in runs.

    Args:
      indices: of all containers.
      classes: the names in order; images of others go nowhere.
      held_out: share of the training images that become the split `val`, by a hash of their names.
      shard_bytes: about how large a shard is.
    """
    shards, known = [], np.array([name.encode() for name in classes])
    for split in range(len(SPLITS)):
        pieces, sizes = [], []
        for number, index in enumerate(indices):
            wanted = _members(index, split, known, held_out)
            for start in range(0, len(wanted), _PIECE):
                members = wanted[start : start + _PIECE]
                pieces.append(Piece(number, members))
                sizes.append(int(index.sizes[members].sum()))
        order = np.random.default_rng(_SEED).permutation(len(pieces))
        groups = list(_by_size([pieces[place] for place in order], [sizes[place] for place in order], shard_bytes))
        shards += [
            Shard(SPLITS[split], number, len(groups), tuple(sorted(group, key=_place)))
            for number, group in enumerate(groups)
        ]
    return shards


def _members(index: Index, split: int, known: np.ndarray, held_out: float) -> np.ndarray:
    train, val = SPLITS.index("train"), SPLITS.index("val")
    held = (index.splits == train) & (index.hashes < held_out * 2**32)
    splits = np.where(held, val, index.splits)
    return np.flatnonzero((splits == split) & np.isin(index.classes, known))


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


def _place(piece: Piece) -> tuple[int, int]:
    return piece.container, int(piece.members[0])
