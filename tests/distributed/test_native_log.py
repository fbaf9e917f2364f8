"""Messages of native code still reach stderr, and a process that ends with the others prints one line."""

import subprocess
import sys

import pytest

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


NATIVE = r'os.write(2, b"F1 client.h:80] Terminating process because the JAX distributed service here\n @ 0x7f\n")'
PYTHON = "native_log.print_last('failed: an exchange of this run')"


@pytest.mark.parametrize(
    ("first", "second", "line"),
    [
        (PYTHON, NATIVE, "failed: an exchange of this run"),
        (NATIVE, PYTHON, "failed: another process of this run has ended or does not respond"),
        (PYTHON, "", "failed: an exchange of this run"),
    ],
)
def test_an_error_of_an_exchange_and_jaxs_own_trace_are_one_line(first, second, line):
    started = "import os\nfrom focalnet_jax.distributed import native_log\nnative_log.shorten()"
    program = "\n".join([started, first, second, "os._exit(1)"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1


def test_the_last_line_is_printed_without_a_filter():
    program = f"from focalnet_jax.distributed import native_log\n{PYTHON}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr == "failed: an exchange of this run\n"
