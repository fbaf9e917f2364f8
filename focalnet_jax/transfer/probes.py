"""Classifiers of features `[N, C]` with labels `[N]`: accuracies on others, in percent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from focalnet_jax.errors import UserError

_AT_ONCE = 1024  # rows compared with all others


@dataclass(frozen=True)
class Features:
    """What a backbone makes of a split: `values` `[N, C]` float32, `labels` `[N]` int."""

    values: np.ndarray
    labels: np.ndarray


def nearest_neighbours(
    train: Features, test: Features, *, neighbours: Sequence[int] = (10, 20), temperature: float = 0.07
) -> dict[str, float]:
    """`knn/K`: the nearest K by cosine vote, each with the weight exp(cosine / temperature) (arXiv 2104.14294, F).

    Raises:
      UserError: there are fewer training examples than neighbours.
    """
    if max(neighbours) > len(train.labels):
        raise UserError(f"{max(neighbours)} neighbours of {len(train.labels)} training examples; ask for fewer")
    known, asked = (_directions(split.values) for split in (train, test))
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    right = dict.fromkeys(neighbours, 0)
    most = max(neighbours)
    for first in range(0, len(asked), _AT_ONCE):
        cosines = asked[first : first + _AT_ONCE] @ known.T
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :most]
        weights = np.exp(np.take_along_axis(cosines, nearest, axis=1) / temperature)
        labels = train.labels[nearest]
        truth = test.labels[first : first + _AT_ONCE]
        for count in neighbours:
            votes = np.zeros((len(truth), classes))
            np.add.at(votes, (np.arange(len(truth))[:, None], labels[:, :count]), weights[:, :count])
            right[count] += int((votes.argmax(axis=1) == truth).sum())
    return {f"knn/{count}": 100 * hits / len(test.labels) for count, hits in right.items()}


def linear_probe(
    train: Features, test: Features, *, strengths: Sequence[float] = (1e-3, 1e-2, 1e-1, 1, 10, 100), seed: int = 0
) -> dict[str, float]:
    """`linear`: multinomial logistic regression by L-BFGS (arXiv 2103.00020, A.3).

    The inverse strength of its penalty is the one of `strengths` that does best on a fifth of the training examples.

    Raises:
      UserError: they are of one class, or too few to hold out a fifth of them.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    known, asked = _standardized(train.values, test.values)

    def fitted(rows: np.ndarray, labels: np.ndarray, strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=1000).fit(rows, labels)

    classes, counts = np.unique(train.labels, return_counts=True)
    if len(classes) < 2:
        raise UserError("linear: all training examples are of one class; expected two or more")
    # A class of one cannot be shared out, nor a fifth that has not one of each.
    shared = counts.min() > 1 and 0.2 * len(train.labels) >= len(classes)
    rows, held, labels, held_labels = train_test_split(
        known, train.labels, test_size=0.2, random_state=seed, stratify=train.labels if shared else None
    )
    if len(np.unique(labels)) < 2:
        told = f"{len(train.labels)} training examples of {len(classes)} classes"
        raise UserError(f"linear: {told} are too few to hold out a fifth of them; add some")
    scores = {strength: fitted(rows, labels, strength).score(held, held_labels) for strength in strengths}
    best = max(scores, key=scores.__getitem__)
    right = fitted(known, train.labels, best).score(asked, test.labels)
    return {"linear": 100 * float(right), "linear/C": float(best)}


def few_shot(
    train: Features,
    test: Features,
    *,
    shots: Sequence[int] = (1, 5, 10, 25),
    penalties: Sequence[float] = (2.0**-10, 2.0**-5, 2.0**0, 2.0**5, 2.0**10),
    seed: int = 0,
) -> dict[str, float]:
    """`few_shot/N`: least squares from N examples a class to one-hot labels (as big_vision's fewshot_lsr).

    Features are standardized by the chosen examples, a constant is added, and the penalty is the one that does best
    on the examples measured, for all numbers of examples alike on average: an upper bound, the same for all who
    compare by it.

    Raises:
      UserError: a class has fewer examples.
    """
    counts = np.bincount(train.labels)
    if (short := np.flatnonzero((counts > 0) & (counts < max(shots)))).size:
        raise UserError(
            f"class {short[0]} has {counts[short[0]]} training examples, and {max(shots)} shots were asked for"
        )
    order = np.random.default_rng(seed).permutation(len(train.labels))
    accuracies = {count: _few_shot(train, test, order, count, penalties) for count in shots}
    best = int(np.argmax(np.mean(list(accuracies.values()), axis=0)))
    return {f"few_shot/{count}": float(each[best]) for count, each in accuracies.items()} | {
        "few_shot/penalty": float(penalties[best])
    }


def _few_shot(
    train: Features, test: Features, order: np.ndarray, count: int, penalties: Sequence[float]
) -> list[float]:
    """Accuracy by each penalty."""
    labels = train.labels[order]
    places = np.concatenate([order[labels == label][:count] for label in np.unique(labels)])
    known, asked = _standardized(train.values[places], test.values)
    known, asked = (np.pad(rows, ((0, 0), (0, 1)), constant_values=1.0) for rows in (known, asked))
    classes = np.unique(train.labels)
    wanted = np.where(train.labels[places][:, None] == classes, 1.0, -1.0)
    # By the smaller of both products' eigenvectors; X^T (X X^T + p)^-1 Y is (X^T X + p)^-1 X^T Y.
    wide = known.shape[0] < known.shape[1]
    values, vectors = np.linalg.eigh(known @ known.T if wide else known.T @ known)
    right_side = vectors.T @ (wanted if wide else known.T @ wanted)
    accuracies = []
    for penalty in penalties:
        solved = vectors @ (right_side / (np.maximum(values, 0) + penalty)[:, None])
        weights = known.T @ solved if wide else solved
        accuracies.append(100 * float((classes[(asked @ weights).argmax(axis=1)] == test.labels).mean()))
    return accuracies


def _directions(values: np.ndarray) -> np.ndarray:
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def _standardized(known: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By the mean and deviation of the first."""
    known, asked = known.astype(np.float64), asked.astype(np.float64)
    mean, deviation = known.mean(axis=0), known.std(axis=0) + 1e-8
    return (known - mean) / deviation, (asked - mean) / deviation
