"""Signal handlers, which Python allows only in the main thread."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


def in_main_thread() -> bool:
    """Returns whether this is the main thread, which may set signal handlers."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def handled(numbers: Iterable[int], handler: Callable[..., Any] | signal.Handlers) -> Iterator[None]:
    """Context manager that sets a handler for signals, and restores the previous handlers afterwards.

    Does nothing outside the main thread; the program that started the thread then handles signals.

    Args:
      numbers: the signals.
      handler: a handler that `signal.signal` accepts.
    """
    if not in_main_thread():
        yield
        return
    before = [(number, signal.signal(number, handler)) for number in numbers]
    try:
        yield
    finally:
        for number, previous in before:
            signal.signal(number, previous)
