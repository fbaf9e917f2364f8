"""Connects the processes of a run, and ends them together.

A run has one process per host of a TPU pod, one per GPU or node of a cluster, or several on one machine.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import importlib.util
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

import jax

from focalnet_jax.distributed import native_log
from focalnet_jax.distributed.flags import COORDINATOR, PROCESS, PROCESSES
from focalnet_jax.errors import BEFORE_THE_END, EXIT_FAILED, RunFailedError, UserError
from focalnet_jax.system.signals import handled

_HEARTBEAT_SECONDS = 10  # time without a heartbeat after which a process counts as gone and the others end
_LINGER_SECONDS = 1.0  # time before process 0 ends, in which the other processes can print the same error
_LONGEST_TIMEOUT = 24 * 60 * 60
_BROKEN_OFF = re.compile(r"gloo|nccl|connection|socket|heartbeat|unavailable|aborted", re.IGNORECASE)
_COLLECTIVE = re.compile(r"gloo|nccl", re.IGNORECASE)


def connect(flags: argparse.Namespace) -> None:
    """Connects this process with the other processes of the run; does nothing in a run of one process.

    Afterwards, only process 0 prints to stdout. If some processes do not connect before the timeout, this process exits
    with a one-line message, instead of JAX's native trace.

    Raises:
      UserError: the flags are incomplete or invalid, or the processes have different numbers of devices.
      RunFailedError: JAX cannot connect the processes.
    """
    if not 0 < flags.coordinator_timeout <= _LONGEST_TIMEOUT:
        raise UserError(f"--coordinator-timeout {flags.coordinator_timeout}: expected 1 to {_LONGEST_TIMEOUT} seconds")
    given = _connection_arguments(flags)
    if given is None or (not given and not _in_cluster(os.environ)):
        return
    _refuse_port_in_use(given)
    where = given.get("coordinator_address", "the cluster's coordinator")
    native_log.shorten()
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM, see checkpoint/preemption.py
    timer = threading.Timer(flags.coordinator_timeout, _give_up, (where, flags.coordinator_timeout))
    timer.daemon = True
    timer.start()
    try:
        with handled([signal.SIGINT], signal.SIG_DFL):  # Python's own handler would wait until all processes connect
            jax.distributed.initialize(
                **given,
                local_device_ids=_gpus_of_this_process(os.environ),
                initialization_timeout=flags.coordinator_timeout + 60,
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            )
    except (RuntimeError, ValueError) as error:
        advice = (
            "check that all processes have the same --coordinator and --processes, and each its own --process"
            if given
            else "give --coordinator, --processes and --process"
        )
        raise RunFailedError(f"cannot connect to {where}: {' '.join(str(error).split())[:200]}; {advice}") from error
    finally:
        timer.cancel()
    if is_first():
        # The other processes end as soon as process 0 does. If all fail with the same error, each has time to print it.
        BEFORE_THE_END.append(lambda: time.sleep(_LINGER_SECONDS))
    else:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open until the process ends
        os.dup2(sys.stdout.fileno(), 1)  # the same for output of native code
    refuse_uneven(jax.devices())


def refuse_uneven(devices: Sequence[jax.Device]) -> None:
    """Raises `UserError` if the processes have different numbers of devices, for example because a device is broken.

    Exchanges between the processes would fail.
    """
    numbers = Counter(device.process_index for device in devices)
    if len(set(numbers.values())) > 1:
        counts = ", ".join(f"process {process} has {number}" for process, number in sorted(numbers.items())[:8])
        raise UserError(
            f"the processes of this run differ in their number of devices ({counts}): give all processes the "
            "same number"
        )


def _give_up(where: str, seconds: int) -> None:
    _end(
        f"not all processes connected to {where} within {seconds} s (--coordinator-timeout): start all processes with "
        "the same --coordinator, and check that its port is open"
    )


def _end(text: str) -> NoReturn:
    native_log.print_last(f"failed: {text}")
    os._exit(EXIT_FAILED)  # an orderly shutdown would wait for the other processes


def is_lost_connection(error: BaseException) -> bool:
    """Returns whether an exchange with another process of this run failed because that process has ended."""
    if jax.process_count() == 1 or isinstance(error, UserError):
        return False
    text = str(error)
    if isinstance(error, jax.errors.JaxRuntimeError):
        return bool(_BROKEN_OFF.search(text))
    return isinstance(error, ValueError) and bool(_COLLECTIVE.search(text))  # raised by Orbax


@contextlib.contextmanager
def ends_with_the_others() -> Iterator[None]:
    """Context manager that ends this process with a one-line message if another process has ended.

    It covers exchanges that raise an error, such as those over gloo and NCCL. If an exchange waits without an error,
    JAX ends this process when another process has not responded for 10 s or process 0 has ended (see `native_log`).
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not is_lost_connection(error):
            raise
        first = str(error).splitlines()[0]
        _end(
            f"another process of this run has ended; its own message says why. The error here: {first[:200]}. "
            "The same command resumes from the last checkpoint"
        )


def _connection_arguments(flags: argparse.Namespace) -> dict[str, str | int] | None:
    """Returns the arguments of `jax.distributed.initialize` from the flags or the environment.

    Returns an empty dict if neither sets any, and None for a run of one process.

    Raises:
      UserError: an argument is missing or invalid.
    """
    address = flags.coordinator or os.environ.get(COORDINATOR)
    count = _integer(os.environ, PROCESSES, 0) if flags.processes is None else flags.processes
    index = _integer(os.environ, PROCESS, -1) if flags.process is None else flags.process
    if not address and not count and index < 0:
        return {}
    if count == 1 and index in (-1, 0):
        return None
    host, _, port = (address or "").rpartition(":")
    if not (host and port.isdigit() and 0 < int(port) < 2**16 and 0 <= index < count):
        flags = {"--coordinator": address, "--processes": count or None, "--process": None if index < 0 else index}
        given = " ".join(f"{name} {value}" for name, value in flags.items() if value is not None)
        missing = ", ".join(name for name, value in flags.items() if value is None)
        raise UserError(
            f"{given}: expected --coordinator HOST:PORT, --processes N, and --process from 0 to N - 1"
            + (f"; {missing} is missing" if missing else "")
        )
    return {"coordinator_address": address, "num_processes": count, "process_id": index}


def _refuse_port_in_use(given: Mapping[str, str | int]) -> None:
    """Raises `UserError` if this is process 0 and cannot listen at the coordinator's port, where JAX would crash."""
    if given.get("process_id") != 0:
        return
    address = str(given["coordinator_address"])
    with _unbound_socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(address.rpartition(":")[2])))
        except OSError as error:
            raise UserError(
                f"--coordinator {address}: process 0 cannot listen there ({error.strerror}), maybe because another run "
                "is still ending; give all processes another port"
            ) from error


def _unbound_socket() -> socket.socket:
    """Returns a socket that can listen at all addresses of this machine, only at IPv4 addresses if it has no IPv6."""
    with contextlib.suppress(OSError):  # `socket.has_ipv6` describes Python, not the machine
        return socket.socket(socket.AF_INET6)
    return socket.socket(socket.AF_INET)


def _gpus_of_this_process(environment: Mapping[str, str]) -> list[int] | None:
    """Returns the indices of all GPUs of this node if SLURM or Open MPI runs only one process on the node.

    Otherwise returns None, which lets JAX choose: one GPU per process in a cluster.
    """
    alone = environment.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0] == "1"
    alone |= environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    given = environment.get("CUDA_VISIBLE_DEVICES")
    count = len(given.split(",")) if given else len(glob.glob("/dev/nvidia[0-9]*"))
    return list(range(count)) if alone and count and "JAX_LOCAL_DEVICE_IDS" not in environment else None


def _in_cluster(environment: Mapping[str, str]) -> bool:
    """Returns whether JAX can detect the other processes by itself: SLURM, Open MPI, Kubernetes jobs, TPU machines."""
    on_tpu = bool(importlib.util.find_spec("libtpu") and _tpu_chips())
    kubernetes = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys() and not on_tpu
    if kubernetes and not importlib.util.find_spec("kubernetes"):
        print(
            "warning: this pod of a Kubernetes job trains alone; to connect it with the other pods, pip install "
            "'focalnet_jax[k8s]' or give --coordinator, --processes and --process",
            file=sys.stderr,
        )
        kubernetes = False
    slurm = "SLURM_STEP_NODELIST" in environment and _integer(environment, "SLURM_NTASKS", 1) > 1
    return slurm or _integer(environment, "OMPI_COMM_WORLD_SIZE", 1) > 1 or kubernetes or on_tpu


def _integer(environment: Mapping[str, str], name: str, default: int) -> int:
    """Returns an environment variable as an integer, or `default` if the variable is not set."""
    try:
        return int(environment.get(name, default))
    except ValueError:
        raise UserError(f"{name}={environment[name]} in the environment: expected an integer") from None


def _tpu_chips() -> list[str]:
    """Returns the files of Google's accelerators on the PCI bus, where JAX also searches for TPUs."""
    chips = []
    for vendor in glob.glob("/sys/bus/pci/devices/*/vendor"):
        kind = os.path.join(os.path.dirname(vendor), "class")
        with contextlib.suppress(OSError), open(vendor) as maker, open(kind) as pci_class:
            if maker.read().strip() == "0x1ae0" and pci_class.read().startswith(("0x0880", "0x1200", "0xff")):
                chips.append(vendor)
    return chips


def is_first() -> bool:
    """Returns whether this is process 0, which writes and prints."""
    return jax.process_index() == 0


def warn(text: str) -> None:
    """Prints a warning to stderr, in process 0 only, because all processes have the same warnings."""
    if is_first():
        print(f"warning: {text}", file=sys.stderr)
