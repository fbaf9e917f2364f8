"""Run a script as several processes on one machine: python -m focalnet_jax.launch --processes 2 -- train.py ...

The processes connect over localhost. With --devices-per-process, each process has this number of virtual CPU devices,
to simulate several hosts. The output of the processes is printed; lines that processes other than 0 write to stderr are
prefixed by the index of the process. SIGTERM and SIGINT (Ctrl-C) are forwarded to all processes. If a process fails,
the others are stopped, and the exit code of the failed process is returned.
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
from focalnet_jax.programs.flags import make_parser
from focalnet_jax.programs.run_command import run_command
from focalnet_jax.system.children import start
from focalnet_jax.system.signals import handled

_GRACE_SECONDS = 30.0  # time for the other processes to end after one has failed, and again after SIGTERM
_LAST_LINES_SECONDS = 5.0  # time to print the last lines of a process; its children may keep its stderr open
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main(arguments: list[str]) -> int:
    """Starts the processes, waits for them, and returns 0 or the exit code of the first process that failed."""
    parser = make_parser("launch", __doc__)
    parser.add_argument("--processes", type=int, required=True, metavar="N", help="number of processes")
    parser.add_argument(
        "--devices-per-process", type=int, metavar="D", help="number of virtual CPU devices per process"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- followed by a Python script and its arguments")
    flags = parser.parse_args(arguments)
    command = flags.command[1:] if flags.command[:1] == ["--"] else flags.command
    for flag, number in (("--processes", flags.processes), ("--devices-per-process", flags.devices_per_process)):
        if number is not None and number < 1:
            raise UserError(f"{flag} {number}: expected at least 1")
    if not command or not os.path.isfile(command[0]):
        raise UserError(
            f"{' '.join(command[:1]) or 'nothing'} is given after --; expected a Python script such as train.py"
        )
    address = f"localhost:{_free_local_port()}"
    processes = [_start(command, address, flags, index) for index in range(flags.processes)]
    readers = [
        threading.Thread(target=_print_stderr, args=(process, index), daemon=True)
        for index, process in enumerate(processes)
        if index
    ]
    for reader in readers:
        reader.start()
    with handled(_SIGNALS, lambda number, _: _send(processes, number)):
        code = _wait(processes)
    for reader in readers:
        reader.join(_LAST_LINES_SECONDS)
    return code


def _free_local_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def _start(command: list[str], address: str, flags: argparse.Namespace, index: int) -> subprocess.Popen[str]:
    variables = {COORDINATOR: address, PROCESSES: str(flags.processes), PROCESS: str(index)}
    if flags.devices_per_process:
        given = os.environ.get("XLA_FLAGS", "")
        variables["XLA_FLAGS"] = f"{given} --xla_force_host_platform_device_count={flags.devices_per_process}".strip()
        variables["JAX_PLATFORMS"] = "cpu"
    return start(
        [sys.executable, *command],
        env=os.environ | variables,
        stderr=None if index == 0 else subprocess.PIPE,
        text=True,
        errors="replace",
    )


def _print_stderr(process: subprocess.Popen[str], index: int) -> None:
    for line in process.stderr:
        print(f"[{index}] {line}", end="", file=sys.stderr, flush=True)


def _send(processes: list[subprocess.Popen[str]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _wait(processes: list[subprocess.Popen[str]]) -> int:
    failed: tuple[int, int] | None = None  # index and exit code of the first process that failed
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
            text = f"process {failed[0]} ended with exit code {failed[1]}; sending {number.name} to process {still}"
            print(text, file=sys.stderr, flush=True)
            _send(processes, number)
        time.sleep(0.05)


if __name__ == "__main__":
    run_command(main)
