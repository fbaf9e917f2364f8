"""Collects the problems of annotations by kind, and describes each kind with examples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# What is done with an annotation, in messages.
LEFT_OUT = "left out"  # of training and evaluation
UNUSED = "not used for training"  # but in the ground truth of an evaluation, as in COCO's tools
CHANGED = "corrected"
_NAMED = 3  # number of ids in a line


class Problems:
    """Problems of annotations by kind, with the ids of the annotations."""

    def __init__(self):
        self._found: dict[tuple[str, str], list[int | str]] = {}

    def add(self, done: str, reason: str, ids: np.ndarray | list) -> None:
        """Records that annotations have a problem.

        Args:
          done: what is done with them, `LEFT_OUT`, `UNUSED` or `CHANGED`.
          reason: the problem, such as "outside of the image".
          ids: ids of the annotations.
        """
        if len(ids):
            self._found.setdefault((done, reason), []).extend(np.asarray(ids).tolist())

    def __iter__(self) -> Iterator[tuple[str, str, list[int | str]]]:
        """Yields (what was done, reason, ids of the annotations)."""
        for (done, reason), ids in self._found.items():
            yield done, reason, ids

    def __bool__(self) -> bool:
        return bool(self._found)

    def update(self, other: Problems) -> None:
        """Adds the problems of other annotations."""
        for done, reason, ids in other:
            self.add(done, reason, ids)

    def counts(self) -> dict[str, int]:
        """Returns the number of annotations of each kind. A key is the action and the reason: "left out: ..."."""
        return {f"{done}: {reason}": len(ids) for done, reason, ids in self}

    def lines(self) -> list[str]:
        """Returns one line per kind of problem, with the number of annotations and the first ids."""
        return [
            f"{done}: {len(ids):,} annotations ({reason}; such as {', '.join(map(str, ids[:_NAMED]))})"
            for done, reason, ids in self
        ]
