"""Replaces the random draws of mmcv's transforms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np

Call = tuple[str, tuple, object]  # name in numpy.random, arguments, result


@contextmanager
def drawn(*calls: Call, all_of_them: bool = True) -> Iterator[None]:
    """Replaces functions of `numpy.random`, which must be called with these arguments, and gives their results."""
    left = list(calls)

    def replacement(name: str):
        def draw(*arguments, p=None):
            expected, wanted, result = left.pop(0)
            got = arguments if p is None else (*arguments, p)
            assert (name, got) == (expected, wanted), f"{name}{got} instead of {expected}{wanted}"
            return result

        return draw

    names = ("random_sample", "randint", "uniform", "choice")
    with mock.patch.multiple(np.random, **{name: replacement(name) for name in names}):
        yield
    assert not (left and all_of_them), f"{len(left)} draws were not made"


def photos() -> list[np.ndarray]:
    """Returns three photos `[H, W, 3]` uint8 of scikit-learn and scikit-image, of different shapes."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    return [load_sample_images().images[0], data.astronaut()[:, 60:401], data.coffee()[:301]]
