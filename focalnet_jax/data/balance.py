"""Class counts of a source, and an order in which rare classes come more often than they are."""

from __future__ import annotations

import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from grain.experimental import index_shuffle

from focalnet_jax.data.decode import UnreadableImageError
from focalnet_jax.data.labels import Relabelled
from focalnet_jax.data.sources import Source
from focalnet_jax.errors import UserError
from focalnet_jax.system.files import write_whole

_CACHE = "~/.cache/focalnet_jax/labels"
_THREADS = 16
_ATTEMPTS = 10  # as the loader's, for a record that cannot be read


class Balance:
    """Which example stands at a place of an epoch, so that a class of n examples comes about n ** (1 - power) times.

    An epoch has as many examples as the source. Each class has a fixed number of places in it, and fills them from
    permutations of its own, one after the other, so that all of its examples come equally often. A pure function of
    seed, epoch and place.

    Args:
      labels: `[N]`, of every example.
      power: 0 leaves classes as frequent as they are, 1 makes all equally frequent.
    """

    def __init__(self, labels: np.ndarray, power: float):
        self._order = np.argsort(labels, kind="stable").astype(np.int32)  # class by class
        self.counts = np.bincount(labels)
        there = self.counts > 0
        share = np.zeros(len(self.counts))
        share[there] = self.counts[there] ** (1.0 - power)
        exact = len(labels) * share / share.sum()
        self.places = np.floor(exact).astype(np.int64)
        rest = len(labels) - self.places.sum()
        self.places[np.argsort(self.places - exact, kind="stable")[:rest]] += 1  # the largest remainders
        self._firsts = np.cumsum(self.counts) - self.counts
        self._ends = np.cumsum(self.places)

    def example(self, place: int, epoch: int, seed: int) -> int:
        """The index of the example at a place in [0, N) of an epoch whose places are still in class order."""
        label = int(np.searchsorted(self._ends, place, side="right"))
        places, count = int(self.places[label]), int(self.counts[label])
        turn, within = divmod(epoch * places + place - (int(self._ends[label]) - places), count)
        if count > 1:
            within = index_shuffle(within, max_index=count - 1, seed=_turn_seed(seed, label, turn), rounds=4)
        return int(self._order[self._firsts[label] + within])

    def describe(self) -> str:
        """Images and places of the rarest and of the most frequent class, in words."""
        there = np.flatnonzero(self.counts)
        rare, often = there[self.counts[there].argmin()], there[self.counts[there].argmax()]
        return (
            f"the {self.counts[rare]} images of the rarest class come {self.places[rare]} times in an epoch, the "
            f"{self.counts[often]} of the most frequent one {self.places[often]} times"
        )


@lru_cache(maxsize=4096)
def _turn_seed(seed: int, label: int, turn: int) -> int:
    return int(np.random.SeedSequence((seed, label, turn, 1)).generate_state(1)[0])


def balanced_weights(counts: np.ndarray) -> np.ndarray:
    """Weights in inverse proportion to class counts, `[K]`: those of scikit-learn's `compute_class_weight("balanced")`.

    Their mean over the examples is 1. A class without examples has weight 0.
    """
    there = counts > 0
    weights = np.zeros(len(counts))
    weights[there] = counts.sum() / (there.sum() * counts[there])
    return weights


def labels_of(source: Source) -> np.ndarray:
    """The label of every example, `[N]` int32.

    A source that does not list them is read through once; they are then kept in ~/.cache/focalnet_jax/labels.
    """
    if isinstance(source, Relabelled):  # what is kept is of its source
        return source.outputs[labels_of(source.source)]
    listed = getattr(source, "labels", None)
    if listed is not None:
        return listed
    path = Path(os.path.expanduser(_CACHE), f"{source.fingerprint}-{len(source)}.npy")
    try:
        kept = np.load(path)
        if kept.shape == (len(source),) and kept.dtype == np.int32:
            return kept
    except (OSError, ValueError):  # there is none, or it is damaged
        pass
    print(f"labels     of {len(source)} examples are read once, to balance their classes", flush=True)
    with ThreadPoolExecutor(_THREADS) as pool:
        labels = np.fromiter(pool.map(partial(_label, source), range(len(source))), np.int32, len(source))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, _npy(labels))
    except OSError as error:
        print(f"warning: {path.parent}: {error.strerror}; labels are read again at the next start", file=sys.stderr)
    return labels


def _label(source: Source, index: int) -> int:
    """The label of an example; of a damaged record that of the next one, which is trained on in its place."""
    for attempt in range(_ATTEMPTS):
        try:
            return int(source[(index + attempt) % len(source)][1])
        except UnreadableImageError:
            continue
    raise UserError(f"cannot read {source.name(index)}, nor the {_ATTEMPTS - 1} after it: check the data")


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
