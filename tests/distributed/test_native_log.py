"""Messages of native code still reach stderr."""

import subprocess
import sys

PROGRAM = """
import os, sys
from focalnet_jax.distributed import native_log
native_log.shorten()
os.write(2, b"native before\\n")
print("of Python", file=sys.stderr)
os.write(2, b"E1 agent.cc:289] Polled an error from coordination service (this can be ...).\\n")
os.write(2, b"F1 client.h:80] Terminating process because the JAX distributed service here\\n @ 0x7f\\n")
os._exit(1)
"""


def test_only_jaxs_own_trace_is_replaced():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert "native before" in done.stderr
    assert "of Python" in done.stderr
    assert "failed: another process of this run has ended or does not respond" in done.stderr
    assert len(done.stderr.splitlines()) == 3
