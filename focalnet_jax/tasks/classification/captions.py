"""Text for the classes of a mixed target."""

from __future__ import annotations

from functools import cache

import numpy as np

from focalnet_jax.data.class_lists import class_list

_MOST = 2  # named, the largest first


def captions(target: np.ndarray, classes: tuple[str, ...], floor: float) -> list[str]:
    """Returns lines such as `0.72 tench` for the classes of a target `[K]` whose probability exceeds `floor`.

    Label smoothing gives the probability `floor` to every class.
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
