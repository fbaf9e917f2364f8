"""Counts and reports training images that cannot be read, and ends a run that has too many of them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np

from focalnet_jax.data.decode import UnreadableImageError
from focalnet_jax.data.host import Batch, EvalHost
from focalnet_jax.data.source import Source
from focalnet_jax.errors import UserError

TRIED = 10  # largest number of examples tried in a row, starting with an unreadable example
READABLE = -1  # value in a batch's `unreadable` for a readable example
_REASONS_READ, _REASONS_NAMED = 100, 3  # number of images decoded again for a message; number of reasons in it


class Substitutions:
    """Counts the examples that replace unreadable examples, and ends a run that has too many of them.

    Args:
      source: the examples, for their names in messages.
      host: `EvalHost` that decodes an unreadable example again to find the reason.
      most: largest allowed fraction of unreadable examples, relative to the number of examples read so far or to the
        size of the data set, whichever is larger.
      counts: which examples of a batch this process counts, `[B / hosts]` bool, or one bool for all examples. If
        several processes read the same example, only one of them counts it.
      alone: whether this process reads all examples. If not, the caller sums `count` over the processes and calls
        `check`.
    """

    def __init__(
        self, source: Source, host: EvalHost, most: float, counts: np.ndarray | bool = True, *, alone: bool = True
    ):
        self.count = 0
        self._source, self._host, self._most, self._counts, self._alone = source, host, most, counts, alone
        self._read = 0
        self._named: set[int] = set()

    def resume(self, count: int, read: int) -> None:
        """Sets the numbers of substitutions and of examples read so far, when a run resumes."""
        self.count, self._read = count, read

    def counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yields batches without their field `unreadable`, and prints a warning for every unreadable image once.

        Raises:
          UserError: `alone` is True, and too many images are unreadable.
        """
        for batch in batches:
            unreadable = batch.pop("unreadable")
            found = unreadable != READABLE
            self._read += len(unreadable)
            self.count += int((found & self._counts).sum())
            new = sorted(set(unreadable[found].tolist()) - self._named)
            self._named.update(new)
            if self._alone:
                self.check(self.count, self._read)
            for index in new:
                name, reason = self._source.name(index), why_unreadable(self._source, self._host, index)
                print(f"warning: cannot read image {name} ({reason}); the next image replaces it", file=sys.stderr)
            yield batch

    def check(self, count: int, read: int) -> None:
        """Raises `UserError` if too many examples are unreadable.

        Args:
          count: number of unreadable examples in all processes.
          read: number of examples read by all processes.
        """
        if count > self._most * max(read, len(self._source)):
            known = bool(self._named)  # this process may have read none of the unreadable examples
            such = f", such as {self._source.name(min(self._named))} ({self._reasons()})" if known else ""
            raise UserError(
                f"{count} of {read} images could not be read{such}: repair or remove them, or raise "
                f"data.max_unreadable={self._most}"
            )

    def _reasons(self) -> str:
        """Returns the reasons why images could not be read, the most frequent reason first."""
        some = sorted(self._named)[:_REASONS_READ]
        reasons = Counter(why_unreadable(self._source, self._host, index) for index in some).most_common(_REASONS_NAMED)
        return reasons[0][0] if len(some) == 1 else "; ".join(f"{count} because {reason}" for reason, count in reasons)


def why_unreadable(source: Source, host: EvalHost, index: int) -> str:
    """Decodes the image of an example again, and returns why that fails, or "it can be read now"."""
    try:
        host.eval_example(source[index])
    except UnreadableImageError as error:
        return str(error)
    return "it can be read now"
