"""Forwards Google Cloud's notice of maintenance or preemption to this process as a signal."""

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
_NOTICES = {"maintenance-event": "NONE", "preempted": "FALSE"}  # value without an event, by metadata entry
_POLL_SECONDS = 5.0


@contextmanager
def watched(on_tpu: bool) -> Iterator[None]:
    """Sends this process a SIGTERM when its machine is about to be maintained or preempted, while entered.

    On TPU machines, or if `GCE_METADATA_HOST` names a server, polls the metadata server of the machine. Does nothing
    outside the main thread, because this package installs signal handlers only in the main thread.
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
