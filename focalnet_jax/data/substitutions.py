"""Pictures that cannot be read in training: counted, named once each, and the run ended where there are too many."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from focalnet_jax.data.decode import UnreadableImageError
from focalnet_jax.data.sources import Source
from focalnet_jax.errors import UserError

Batch = dict[str, np.ndarray]
READABLE = -1  # in a batch's `unreadable`
_REASONS_READ, _REASONS_NAMED = 100, 3  # unreadable images that are looked at again to say why, and reasons said


class EvalHost(Protocol):
    """Makes arrays of examples to evaluate on, see `tasks.task.Host`."""

    def eval_example(self, example: Any) -> Batch:
        """Returns arrays of fixed shapes by name; raises `UnreadableImageError`."""


class Substitutions:
    """Counts the examples that stand for unreadable ones, and ends a run with too many.

    Args:
      source: the examples, for their names.
      host: reads an example again to say why it cannot be read.
      most: the largest share of the examples read, or of one epoch while less is read.
    """

    def __init__(self, source: Source, host: EvalHost, most: float):
        self.count = 0
        self._source, self._host, self._most = source, host, most
        self._read = 0
        self._named: set[int] = set()

    def go_on(self, count: int, read: int) -> None:
        """Counts on from what a run before it had counted and read."""
        self.count, self._read = count, read

    def counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches without their field `unreadable`; names on stderr what could not be read, once each.

        Raises:
          UserError: there were too many.
        """
        for batch in batches:
            unreadable = batch.pop("unreadable")
            found = unreadable[unreadable != READABLE]
            self._read += len(unreadable)
            self.count += len(found)
            new = sorted(set(found.tolist()) - self._named)
            self._named.update(new)
            if self.count > self._most * max(self._read, len(self._source)):
                raise UserError(
                    f"{self.count} of {self._read} images could not be read, such as "
                    f"{self._source.name(min(self._named))} ({self._reasons()}): repair or remove them, or raise "
                    f"data.max_unreadable={self._most}"
                )
            for index in new:
                name, reason = self._source.name(index), why_unreadable(self._source, self._host, index)
                print(f"warning: cannot read image {name} ({reason}); the next one is read instead", file=sys.stderr)
            yield batch

    def _reasons(self) -> str:
        """Why images could not be read, the most frequent reasons first."""
        some = sorted(self._named)[:_REASONS_READ]
        reasons = Counter(why_unreadable(self._source, self._host, index) for index in some).most_common(_REASONS_NAMED)
        return reasons[0][0] if len(some) == 1 else "; ".join(f"{count} because {reason}" for reason, count in reasons)


def why_unreadable(source: Source, host: EvalHost, index: int) -> str:
    """Returns why the image of an example cannot be decoded, by trying it again."""
    try:
        host.eval_example(source[index])
    except UnreadableImageError as error:
        return str(error)
    return "it can be read now"
