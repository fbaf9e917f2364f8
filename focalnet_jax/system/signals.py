"""Handlers of signals, which Python allows in the main thread alone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


def in_main_thread() -> bool:
    """Returns whether this thread may set handlers."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def handled(numbers: Iterable[int], handler: Callable[..., Any] | signal.Handlers) -> Iterator[None]:
    """Sets a handler for the signals of these numbers while entered.

    In another thread than the main one it does nothing: signals are then the business of the program that started the
    thread.
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
