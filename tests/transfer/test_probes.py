"""Probes find the structure in features, and nothing in random features."""

import numpy as np
import pytest

from focalnet_jax.errors import UserError
from focalnet_jax.transfer import few_shot, linear_probe, nearest_neighbours
from focalnet_jax.transfer.probes import Features


def made(count, seed, *, signal=4.0, classes=3, dim=8):
    """Returns random features around one direction per class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    values = rng.normal(size=(count, dim)) + signal * np.eye(dim)[labels]
    return Features(values.astype(np.float32), labels)


@pytest.mark.parametrize("probe", [nearest_neighbours, linear_probe, few_shot])
def test_separable_classes_are_recognised_and_noise_is_not(probe):
    names = [name for name in probe(made(120, 0), made(60, 1)) if "penalty" not in name and "C" not in name]
    accuracy = probe(made(120, 0), made(60, 1))
    assert all(accuracy[name] > (60 if name == "few_shot/1" else 95) for name in names)
    guessed = probe(made(120, 0, signal=0), made(600, 1, signal=0))
    assert all(25 < guessed[name] < 42 for name in names)  # a third by chance


def test_neighbours_vote_by_cosine_each_with_its_weight():
    train = Features(np.float32([[1, 0], [0, 1], [0.6, 0.8], [0.6, -0.8]]), np.array([0, 1, 1, 2]))
    test = Features(np.float32([[9, 0.1]]), np.array([0]))
    assert nearest_neighbours(train, test, neighbours=[1, 3]) == {"knn/1": 100.0, "knn/3": 100.0}
    # Without weights, the two neighbours of class 1 would outvote the nearest neighbour.
    assert nearest_neighbours(train, test, neighbours=[4], temperature=100.0) == {"knn/4": 0.0}


@pytest.mark.parametrize("shots", [1, 10])  # fewer and more examples than features
def test_few_shots_solve_the_ridge_regression(shots):
    train, test, penalty = made(60, 0, signal=1), made(300, 1, signal=1), 2.0
    places = np.random.default_rng(0).permutation(60)
    places = np.concatenate([places[train.labels[places] == label][:shots] for label in range(3)])
    known = train.values[places].astype(np.float64)
    mean, deviation = known.mean(axis=0), known.std(axis=0) + 1e-8
    known, asked = (
        np.c_[(rows - mean) / deviation, np.ones(len(rows))] for rows in (known, test.values.astype(np.float64))
    )
    wanted = 2 * np.eye(3)[train.labels[places]] - 1
    weights = np.linalg.solve(known.T @ known + penalty * np.eye(9), known.T @ wanted)
    expected = 100 * np.mean((asked @ weights).argmax(axis=1) == test.labels)
    assert few_shot(train, test, shots=[shots], penalties=[penalty])[f"few_shot/{shots}"] == pytest.approx(expected)


def test_more_neighbours_or_shots_than_examples_are_refused():
    with pytest.raises(UserError, match="neighbours=20: there are 12 training examples"):
        nearest_neighbours(made(12, 0), made(6, 1))
    with pytest.raises(UserError, match="class 0 has 4 training examples, fewer than the 25 shots"):
        few_shot(made(12, 0), made(6, 1))


def test_a_linear_probe_takes_few_examples_a_class_and_says_of_how_many_it_cannot():
    few = made(12, 0)  # three classes with four examples each: a fifth of them cannot contain every class
    assert 0 <= linear_probe(few, made(6, 1))["linear"] <= 100
    one = Features(few.values, np.zeros_like(few.labels))
    with pytest.raises(UserError, match="all training examples have the same class"):
        linear_probe(one, few)
    with pytest.raises(UserError, match="2 training examples of 2 classes are too few"):
        linear_probe(Features(few.values[:2], np.arange(2)), few)
