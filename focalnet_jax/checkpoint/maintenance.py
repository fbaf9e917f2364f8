"""Google's notice that a machine is about to be taken away, which comes as no signal where nobody passes it on."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from focalnet_jax.system.signals import in_main_thread

HOST = "GCE_METADATA_HOST"  # the variable Google's own libraries read
_NOTICES = {"maintenance-event": "NONE", "preempted": "FALSE"}  # with what they say when there is none
_POLL_SECONDS = 5.0


@contextmanager
def watched(on_tpu: bool) -> Iterator[None]:
    """Sends this process a SIGTERM when its machine is about to be maintained or preempted.

    Asks the metadata server of the machine; only on TPU machines, or where `GCE_METADATA_HOST` names a server. Not
    outside the main thread, where no handler of ours waits for the signal.
    """
    if (not on_tpu and HOST not in os.environ) or not in_main_thread():
        yield
        return
    ended = threading.Event()
    asking = threading.Thread(target=_ask, args=(ended,), name="maintenance", daemon=True)
    asking.start()
    try:
        yield
    finally:
        ended.set()


def _ask(ended: threading.Event) -> None:
    host = os.environ.get(HOST, "metadata.google.internal")
    while not ended.wait(_POLL_SECONDS):
        for notice, none in _NOTICES.items():
            address = f"http://{host}/computeMetadata/v1/instance/{notice}"
            request = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
            with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=2) as answer:
                told = answer.read(100).decode(errors="replace").strip()
                if told.upper() != none:
                    print(f"{notice} is {told}: this machine is about to go", file=sys.stderr, flush=True)
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
