"""Loading libraries without looking for garbage among what they make, all of which stays."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

from focalnet_jax.signals import in_main_thread


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Turns garbage collection off while entered, a sixth of what JAX takes to load, and leaves out what was loaded.

    Not to look through libraries again and again takes a quarter off tracing. In another thread than the main one, and
    so perhaps in somebody else's program, it changes nothing.
    """
    if not in_main_thread() or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
