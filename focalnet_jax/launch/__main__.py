"""Run a command as several processes of one machine: python -m focalnet_jax.launch --processes 2 -- train.py ...

They find each other over localhost. With --devices-per-process each has so many virtual CPU devices: a rehearsal of
several hosts. What process 0 prints is printed; what the others say on stderr stands behind their number. A signal goes
to all. When one fails the others are stopped, and its exit code is that of the whole.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from focalnet_jax.distributed.flags import COORDINATOR, PROCESS, PROCESSES
from focalnet_jax.errors import UserError, shell_status
from focalnet_jax.programs.command_line import make_parser, run_command
from focalnet_jax.system.children import start
from focalnet_jax.system.signals import handled

_GRACE_SECONDS = 30.0  # for the others to end by themselves after one has failed, and again after they are told to
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main(arguments: list[str]) -> int:
    """Parses flags, starts the processes and waits for them; returns the first exit code that is not 0."""
    parser = make_parser("launch", __doc__)
    parser.add_argument("--processes", type=int, required=True, metavar="N")
    parser.add_argument("--devices-per-process", type=int, metavar="D", help="virtual CPU devices of each")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and a Python program with its arguments")
    flags = parser.parse_args(arguments)
    command = flags.command[1:] if flags.command[:1] == ["--"] else flags.command
    for flag, number in (("--processes", flags.processes), ("--devices-per-process", flags.devices_per_process)):
        if number is not None and number < 1:
            raise UserError(f"{flag} {number}: expected at least 1")
    if not command or not os.path.isfile(command[0]):
        raise UserError(f"{' '.join(command[:1]) or 'nothing'} after --: expected a Python program such as train.py")
    address = f"localhost:{_free_port()}"
    processes = [_start(command, address, flags, index) for index in range(flags.processes)]
    with handled(_SIGNALS, lambda number, _: _send(processes, number)):
        return _wait(processes)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _start(command: list[str], address: str, flags: argparse.Namespace, index: int) -> subprocess.Popen[str]:
    told = {COORDINATOR: address, PROCESSES: str(flags.processes), PROCESS: str(index)}
    if flags.devices_per_process:
        given = os.environ.get("XLA_FLAGS", "")
        told["XLA_FLAGS"] = f"{given} --xla_force_host_platform_device_count={flags.devices_per_process}".strip()
        told["JAX_PLATFORMS"] = "cpu"
    process = start(
        [sys.executable, *command],
        env=os.environ | told,
        stderr=None if index == 0 else subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if index:
        threading.Thread(target=_pass_on, args=(process, index), daemon=True).start()
    return process


def _pass_on(process: subprocess.Popen[str], index: int) -> None:
    for line in process.stderr:
        print(f"[{index}] {line}", end="", file=sys.stderr, flush=True)


def _send(processes: list[subprocess.Popen[str]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _wait(processes: list[subprocess.Popen[str]]) -> int:
    failed: tuple[int, int] | None = None  # the first to fail, and its exit code
    ends = [signal.SIGTERM, signal.SIGKILL]
    while True:
        codes = [process.poll() for process in processes]
        if failed is None:
            failed = next(((index, shell_status(code)) for index, code in enumerate(codes) if code), None)
            deadline = time.monotonic() + _GRACE_SECONDS
        if None not in codes:
            return failed[1] if failed else 0
        if failed and ends and time.monotonic() > deadline:
            number, deadline = ends.pop(0), time.monotonic() + _GRACE_SECONDS
            still = ", ".join(str(index) for index, code in enumerate(codes) if code is None)
            told = f"process {failed[0]} ended with {failed[1]}; process {still} has not: sending {number.name}"
            print(told, file=sys.stderr, flush=True)
            _send(processes, number)
        time.sleep(0.05)


if __name__ == "__main__":
    run_command(main)
