"""Times functions in turns, so that changing loads of the machine affect all of them."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def in_turns(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Returns the median milliseconds of each call. Each call waits for its result."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # compiles
    for _ in range(rounds):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            taken[name].append(1e3 * (time.perf_counter() - begun))
    return {name: round(statistics.median(values), 3) for name, values in taken.items()}


def installed(package: str) -> bool:
    """Returns whether a package is installed."""
    return importlib.util.find_spec(package) is not None
