"""Measures processor time."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sized


def processor_seconds() -> float:
    """Returns the processor time of this process, including finished threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def images_per_second(read: Callable[[int], Iterator[Sized]], batches: int) -> float:
    """Returns images per second of processor time, for which `read` yields a number of batches.

    Everything that `read` does is counted, because a loader reads ahead. A first batch, which compiles, is read before.
    """
    for _ in read(1):
        pass
    begun = processor_seconds()
    count = sum(map(len, read(batches)))
    return count / (processor_seconds() - begun)
