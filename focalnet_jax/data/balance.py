"""Labels and class counts of a source, and class-balanced sampling."""

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
from focalnet_jax.data.relabelled import Relabelled
from focalnet_jax.data.source import Source
from focalnet_jax.data.substitutions import TRIED
from focalnet_jax.errors import UserError
from focalnet_jax.system.files import write_whole

_CACHE = "~/.cache/focalnet_jax/labels"
_THREADS = 16


class Balance:
    """Order of examples in which a class of n examples is drawn in proportion to n ** (1 - power).

    An epoch has N draws, where N is the number of examples of the source. Each class gets a fixed number of draws.
    The draws of a class go through successive permutations of its examples: after any number of epochs, the numbers of
    draws of two examples of a class differ by at most 1. The order is a pure function of the seed, the epoch and the
    position in the epoch.

    Args:
      labels: labels of all examples, `[N]`.
      power: strength of the balancing. 0 keeps the class frequencies, 1 makes them equal.

    Attributes:
      counts: number of examples of each class, `[K]`.
      places: number of draws of each class in an epoch, `[K]`.
    """

    def __init__(self, labels: np.ndarray, power: float):
        self._order = np.argsort(labels, kind="stable").astype(np.int32)  # class by class
        self.counts = np.bincount(labels)
        present = self.counts > 0
        share = np.zeros(len(self.counts))
        share[present] = self.counts[present] ** (1.0 - power)
        exact = len(labels) * share / share.sum()
        self.places = np.floor(exact).astype(np.int64)
        rest = len(labels) - self.places.sum()
        self.places[np.argsort(self.places - exact, kind="stable")[:rest]] += 1  # the largest remainders
        self._firsts = np.cumsum(self.counts) - self.counts
        self._ends = np.cumsum(self.places)

    def example(self, position: int, epoch: int, seed: int) -> int:
        """Returns the index of the example at a position in [0, N) of an epoch.

        Positions are grouped by class; the caller shuffles them.
        """
        label = int(np.searchsorted(self._ends, position, side="right"))
        draws, count = int(self.places[label]), int(self.counts[label])
        turn, within = divmod(epoch * draws + position - (int(self._ends[label]) - draws), count)
        if count > 1:
            within = index_shuffle(within, max_index=count - 1, seed=_turn_seed(seed, label, turn), rounds=4)
        return int(self._order[self._firsts[label] + within])

    def describe(self) -> str:
        """Returns a phrase with the numbers of images and draws of the rarest and of the most frequent class."""
        present = np.flatnonzero(self.counts)
        rare, often = present[self.counts[present].argmin()], present[self.counts[present].argmax()]
        return (
            f"an epoch draws {self.places[rare]} times from the {self.counts[rare]} images of the rarest class, "
            f"{self.places[often]} times from the {self.counts[often]} of the most frequent class"
        )


@lru_cache(maxsize=4096)
def _turn_seed(seed: int, label: int, turn: int) -> int:
    return int(np.random.SeedSequence((seed, label, turn, 1)).generate_state(1)[0])


def balanced_weights(counts: np.ndarray) -> np.ndarray:
    """Returns weights inversely proportional to class counts, `[K]`, with mean 1 over the examples.

    The weights equal scikit-learn's `compute_class_weight("balanced")`. A class without examples has weight 0.
    """
    present = counts > 0
    weights = np.zeros(len(counts))
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def labels_of(source: Source) -> np.ndarray:
    """Returns the labels of all examples, `[N]` int32.

    If the source has no attribute `labels`, all examples are read once, and their labels are cached in
    ~/.cache/focalnet_jax/labels.

    Raises:
      UserError: too many examples in a row cannot be read, or an example has several labels.
    """
    if isinstance(source, Relabelled):  # the cache contains the labels of the wrapped source
        return source.outputs[labels_of(source.source)]
    listed = getattr(source, "labels", None)
    if listed is not None:
        return listed
    path = Path(os.path.expanduser(_CACHE), f"{source.fingerprint}-{len(source)}.npy")
    try:
        kept = np.load(path)
        if kept.shape == (len(source),) and kept.dtype == np.int32:
            return kept
    except (OSError, ValueError):  # missing or damaged
        pass
    print(f"labels     reading the labels of {len(source)} examples once, to balance classes", flush=True)
    with ThreadPoolExecutor(_THREADS) as pool:
        labels = np.fromiter(pool.map(partial(_label, source), range(len(source))), np.int32, len(source))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, _npy(labels))
    except OSError as error:
        print(f"warning: cannot write {path}: {error.strerror}; the next start reads the labels again", file=sys.stderr)
    return labels


def _label(source: Source, index: int) -> int:
    """Returns the label of the example at `index`, or of the next readable example, which replaces it in training."""
    for attempt in range(TRIED):
        try:
            label = source[(index + attempt) % len(source)][1]
        except UnreadableImageError:
            continue
        if np.ndim(label):
            raise UserError(
                f"class balancing needs one label per image, but {source.name(index)} has several: set "
                "data.class_balance=0"
            )
        return int(label)
    raise UserError(f"cannot read {source.name(index)} or the {TRIED - 1} examples after it: check the data")


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
