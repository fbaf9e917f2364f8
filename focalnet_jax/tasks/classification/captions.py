"""Captions for training images, whose targets may mix several classes."""

from __future__ import annotations

from functools import cache

import numpy as np

from focalnet_jax.data.class_lists import class_list

_MOST = 2  # largest number of captions


def captions(target: np.ndarray, classes: tuple[str, ...], floor: float) -> list[str]:
    """Returns captions such as `0.72 tench` for the two most probable classes of a target `[K]`.

    Classes whose probability is not above `floor` are left out. Label smoothing gives every class this probability.
    """
    largest = [label for label in np.argsort(-target, kind="stable")[:_MOST] if target[label] > floor + 1e-3]
    names = [classes[label] if label < len(classes) else f"class {label}" for label in largest]
    return [
        f"{target[label]:.2f} {_words().get(name, name).split(',')[0]}"
        for label, name in zip(largest, names, strict=True)
    ]


@cache
def _words() -> dict[str, str]:
    return dict(class_list(1000) + class_list(21842))
