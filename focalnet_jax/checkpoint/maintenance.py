"""Sends this process a signal when Google Cloud announces maintenance or preemption of its machine."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from focalnet_jax.system.signals import in_main_thread

HOST = "GCE_METADATA_HOST"  # environment variable of Google's libraries
_NOTICES = {"maintenance-event": "NONE", "preempted": "FALSE"}  # metadata entries, and their values without an event
_POLL_SECONDS = 5.0


@contextmanager
def watched(on_tpu: bool) -> Iterator[None]:
    """Context manager that sends this process a SIGTERM when Google Cloud announces maintenance or preemption.

    Polls the metadata server of the machine if `on_tpu` is True or the environment variable `GCE_METADATA_HOST` is set.
    Does nothing outside the main thread, because this package installs signal handlers only in the main thread.
    """
    if (not on_tpu and HOST not in os.environ) or not in_main_thread():
        yield
        return
    ended = threading.Event()
    polling = threading.Thread(target=_poll, args=(ended,), name="maintenance", daemon=True)
    polling.start()
    try:
        yield
    finally:
        ended.set()


def _poll(ended: threading.Event) -> None:
    host = os.environ.get(HOST, "metadata.google.internal")
    while not ended.wait(_POLL_SECONDS):
        for notice, none in _NOTICES.items():
            address = f"http://{host}/computeMetadata/v1/instance/{notice}"
            request = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
            failures = contextlib.suppress(OSError, http.client.HTTPException)  # the next poll may succeed
            with failures, urllib.request.urlopen(request, timeout=2) as answer:
                value = answer.read(100).decode(errors="replace").strip()
                if value.upper() != none:
                    print(f"{notice} is {value}: this machine is about to be stopped", file=sys.stderr, flush=True)
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
