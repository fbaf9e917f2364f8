"""Fits classifiers to features `[N, C]` with labels `[N]`, and measures their accuracy on other features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from focalnet_jax.errors import UserError

_AT_ONCE = 1024  # number of test examples compared with all training examples at a time


@dataclass(frozen=True)
class Features:
    """A backbone's features of the images of a split.

    Attributes:
      values: features `[N, C]`, float32.
      labels: labels `[N]`, int.
    """

    values: np.ndarray
    labels: np.ndarray


def nearest_neighbours(
    train: Features, test: Features, *, neighbours: Sequence[int] = (10, 20), temperature: float = 0.07
) -> dict[str, float]:
    """Measures the accuracy of K-nearest-neighbour classification (arXiv 2104.14294, appendix F).

    The K training examples with the highest cosine similarity to a test example vote for their labels, each with the
    weight exp(cosine similarity / temperature).

    Args:
      train: features to search for neighbours.
      test: features to classify.
      neighbours: values of K.
      temperature: divisor of the cosine similarity.

    Returns:
      The accuracy in percent as `knn/K`, for each K in `neighbours`.

    Raises:
      UserError: there are fewer training examples than neighbours.
    """
    if max(neighbours) > len(train.labels):
        count = len(train.labels)
        raise UserError(f"neighbours={max(neighbours)}: there are {count} training examples; give at most {count}")
    known, queries = (_directions(split.values) for split in (train, test))
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    right = dict.fromkeys(neighbours, 0)
    most = max(neighbours)
    for first in range(0, len(queries), _AT_ONCE):
        cosines = queries[first : first + _AT_ONCE] @ known.T
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
    """Measures the accuracy of multinomial logistic regression, fitted by L-BFGS (arXiv 2103.00020, A.3).

    The inverse penalty C is chosen by the accuracy on a held-out fifth of the training examples. The classifier is then
    fitted to all training examples.

    Args:
      train: features to fit the classifier to.
      test: features to classify.
      strengths: values of C to choose from.
      seed: seed of the choice of the held-out examples.

    Returns:
      The accuracy in percent as `linear`, and the chosen C as `linear/C`.

    Raises:
      UserError: all training examples have the same class, or there are too few to hold out a fifth.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    known, queries = _standardized(train.values, test.values)

    def fitted(rows: np.ndarray, labels: np.ndarray, strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=1000).fit(rows, labels)

    classes, counts = np.unique(train.labels, return_counts=True)
    if len(classes) < 2:
        raise UserError("linear: all training examples have the same class; expected two or more classes")
    # Stratification needs two examples per class, and a held-out fifth with at least one of each.
    stratified = counts.min() > 1 and 0.2 * len(train.labels) >= len(classes)
    rows, held, labels, held_labels = train_test_split(
        known, train.labels, test_size=0.2, random_state=seed, stratify=train.labels if stratified else None
    )
    if len(np.unique(labels)) < 2:
        found = f"{len(train.labels)} training examples of {len(classes)} classes"
        raise UserError(f"linear: {found} are too few to hold out a fifth of them; add examples")
    scores = {strength: fitted(rows, labels, strength).score(held, held_labels) for strength in strengths}
    best = max(scores, key=scores.__getitem__)
    right = fitted(known, train.labels, best).score(queries, test.labels)
    return {"linear": 100 * float(right), "linear/C": float(best)}


def few_shot(
    train: Features,
    test: Features,
    *,
    shots: Sequence[int] = (1, 5, 10, 25),
    penalties: Sequence[float] = (2.0**-10, 2.0**-5, 2.0**0, 2.0**5, 2.0**10),
    seed: int = 0,
) -> dict[str, float]:
    """Measures the accuracy of ridge regression from N examples per class, like big_vision's fewshot_lsr.

    The targets are 1 for the class of an example and -1 for all others. Features are standardized with the mean and
    standard deviation of the chosen examples, and a constant is appended. The penalty is chosen by the accuracy on
    `test`, averaged over `shots`. The result is therefore slightly too high, and comparable only with results of the
    same method.

    Args:
      train: features to choose the examples from.
      test: features to classify.
      shots: values of N.
      penalties: penalties to choose from.
      seed: seed of the choice of examples.

    Returns:
      The accuracy in percent as `few_shot/N`, for each N in `shots`, and the chosen penalty as `few_shot/penalty`.

    Raises:
      UserError: a class has fewer than `max(shots)` training examples.
    """
    counts = np.bincount(train.labels)
    if (short := np.flatnonzero((counts > 0) & (counts < max(shots)))).size:
        raise UserError(
            f"class {short[0]} has {counts[short[0]]} training examples, fewer than the {max(shots)} shots: give fewer "
            "--shots, or add examples"
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
    """Returns the accuracy in percent for each penalty."""
    labels = train.labels[order]
    chosen = np.concatenate([order[labels == label][:count] for label in np.unique(labels)])
    known, queries = _standardized(train.values[chosen], test.values)
    known, queries = (np.pad(rows, ((0, 0), (0, 1)), constant_values=1.0) for rows in (known, queries))
    classes = np.unique(train.labels)
    wanted = np.where(train.labels[chosen][:, None] == classes, 1.0, -1.0)
    # Decomposes the smaller of X X^T and X^T X, because X^T (X X^T + p)^-1 Y equals (X^T X + p)^-1 X^T Y.
    wide = known.shape[0] < known.shape[1]
    values, vectors = np.linalg.eigh(known @ known.T if wide else known.T @ known)
    right_side = vectors.T @ (wanted if wide else known.T @ wanted)
    accuracies = []
    for penalty in penalties:
        solved = vectors @ (right_side / (np.maximum(values, 0) + penalty)[:, None])
        weights = known.T @ solved if wide else solved
        accuracies.append(100 * float((classes[(queries @ weights).argmax(axis=1)] == test.labels).mean()))
    return accuracies


def _directions(values: np.ndarray) -> np.ndarray:
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def _standardized(known: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns both arrays standardized by the mean and standard deviation of `known`."""
    known, queries = known.astype(np.float64), queries.astype(np.float64)
    mean, deviation = known.mean(axis=0), known.std(axis=0) + 1e-8
    return (known - mean) / deviation, (queries - mean) / deviation
