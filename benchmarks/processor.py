"""Measures processor time."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sized


def processor_seconds() -> float:
    """Returns the processor time of this process, including finished threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def images_per_second(batches: Iterator[Sized]) -> float:
    """Returns images per second of processor time. The first batch (compilation, opening files) is not counted."""
    next(batches)
    begun = processor_seconds()
    count = sum(map(len, batches))
    return count / (processor_seconds() - begun)
