"""Connects the processes of a run: one per host of a pod, one per GPU or node of a cluster, or several on a machine."""

from __future__ import annotations

import argparse
import contextlib
import glob
import hashlib
import importlib.util
import itertools
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
import numpy as np
from jax.experimental import multihost_utils

from focalnet_jax.distributed import native_log
from focalnet_jax.distributed.flags import COORDINATOR, PROCESS, PROCESSES
from focalnet_jax.errors import BEFORE_THE_END, EXIT_FAILED, RunFailedError, UserError
from focalnet_jax.system.signals import handled

_HEARTBEAT_SECONDS = 10  # time without a heartbeat after which a process counts as gone and the others end
_LINGER_SECONDS = 1.0  # time for the other processes to print the same error before process 0 ends
_LONGEST_TIMEOUT = 24 * 60 * 60
_BROKEN_OFF = re.compile(r"gloo|nccl|connection|socket|heartbeat|unavailable|aborted", re.IGNORECASE)


def connect(flags: argparse.Namespace) -> None:
    """Connects this process with the others of the run; does nothing for a run of one process.

    Afterwards only process 0 prints. If some processes do not connect before the timeout, this process ends with
    one line; the library would print a trace.

    Raises:
      UserError: the flags are incomplete or invalid.
      RunFailedError: the library cannot connect.
    """
    if not 0 < flags.coordinator_timeout <= _LONGEST_TIMEOUT:
        raise UserError(f"--coordinator-timeout {flags.coordinator_timeout}: expected 1 to {_LONGEST_TIMEOUT} seconds")
    given = _connection_arguments(flags)
    if given is None or (not given and not _in_cluster(os.environ)):
        return
    _refuse_port_in_use(given)
    where = given.get("coordinator_address", "the cluster's coordinator")
    native_log.shorten()
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM: see checkpoint/preemption.py
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
        raise RunFailedError(
            f"cannot connect to {where}: {' '.join(str(error).split())[:200]}; give --coordinator, --processes and "
            "--process"
        ) from error
    finally:
        timer.cancel()
    if is_first():
        # If all processes fail with the same error, each can print it: the others end as soon as process 0 does.
        BEFORE_THE_END.append(lambda: time.sleep(_LINGER_SECONDS))
    else:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open until the process ends
        os.dup2(sys.stdout.fileno(), 1)  # for native code, which prints too
    refuse_uneven(jax.devices())


def refuse_uneven(devices: Sequence[jax.Device]) -> None:
    """Raises `UserError` if processes have different numbers of devices, as with a broken one: exchanges would fail."""
    held = Counter(device.process_index for device in devices)
    if len(set(held.values())) > 1:
        counts = ", ".join(f"process {process} has {number}" for process, number in sorted(held.items())[:8])
        raise UserError(
            f"the processes of this run differ in their number of devices ({counts}): give all of them the same"
        )


def _give_up(where: str, seconds: int) -> None:
    _end(
        f"not all processes connected to {where} within {seconds} s (--coordinator-timeout): start all of them with "
        "the same address, and check that its port is open"
    )


def _end(text: str) -> NoReturn:
    print(f"failed: {text}", file=sys.stderr, flush=True)
    os._exit(EXIT_FAILED)  # an orderly shutdown would wait for the other processes


@contextlib.contextmanager
def ends_with_the_others() -> Iterator[None]:
    """Ends this process with one line if an exchange fails because another process has ended.

    This covers exchanges that raise, as over gloo and NCCL. If an exchange waits without an error, the library ends the
    process when a peer has not responded for 10 s or process 0 has ended, see `native_log`.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or not _BROKEN_OFF.search(str(error)):
            raise
        first = str(error).splitlines()[0]
        _end(
            f"another process of this run has ended; its own message says why. The error here: {first[:200]}. "
            "The same command resumes from the last checkpoint"
        )


def _connection_arguments(flags: argparse.Namespace) -> dict[str, str | int] | None:
    """Returns arguments of `jax.distributed.initialize` from flags or environment.

    They are empty if nothing is given, and None for a run of one process.
    """
    address = flags.coordinator or os.environ.get(COORDINATOR)
    try:
        count = int(os.environ.get(PROCESSES, 0)) if flags.processes is None else flags.processes
        index = int(os.environ.get(PROCESS, -1)) if flags.process is None else flags.process
    except ValueError as error:
        raise UserError(f"{PROCESSES} and {PROCESS} in the environment: expected numbers, {error}") from error
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
            f"{given}: expected HOST:PORT, the number of processes, and this one's index below that number"
            + (f"; {missing} is missing" if missing else "")
        )
    return {"coordinator_address": address, "num_processes": count, "process_id": index}


def _refuse_port_in_use(given: Mapping[str, str | int]) -> None:
    """Raises `UserError` if process 0 cannot listen at the coordinator's port; the library would crash."""
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
                "is still ending; choose another port, for all processes"
            ) from error


def _unbound_socket() -> socket.socket:
    """Returns a socket for all addresses of this machine; for those of IPv4 if the machine has no IPv6."""
    with contextlib.suppress(OSError):  # `socket.has_ipv6` is about Python, not about the machine
        return socket.socket(socket.AF_INET6)
    return socket.socket(socket.AF_INET)


def _gpus_of_this_process(environment: Mapping[str, str]) -> list[int] | None:
    """Returns all GPUs of a node if the node has one process; None for JAX's choice, one GPU per process."""
    alone = environment.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0] == "1"
    alone |= environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    given = environment.get("CUDA_VISIBLE_DEVICES")
    count = len(given.split(",")) if given else len(glob.glob("/dev/nvidia[0-9]*"))
    return list(range(count)) if alone and count and "JAX_LOCAL_DEVICE_IDS" not in environment else None


def _in_cluster(environment: Mapping[str, str]) -> bool:
    """Returns whether JAX detects the other processes by itself: SLURM, Open MPI, Kubernetes jobs, TPU machines."""
    on_tpu = bool(importlib.util.find_spec("libtpu") and _tpu_chips())
    kubernetes = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys() and not on_tpu
    if kubernetes and not importlib.util.find_spec("kubernetes"):
        print(
            "warning: this is a pod of a Kubernetes job, but it runs alone; to connect it with the others, pip install "
            "'focalnet_jax[k8s]' or give --coordinator, --processes and --process",
            file=sys.stderr,
        )
        kubernetes = False
    slurm = "SLURM_STEP_NODELIST" in environment and _number(environment, "SLURM_NTASKS") > 1
    return slurm or _number(environment, "OMPI_COMM_WORLD_SIZE") > 1 or kubernetes or on_tpu


def _number(environment: Mapping[str, str], name: str) -> int:
    """Returns an environment variable as a number; 1 if the variable is not set."""
    try:
        return int(environment.get(name, 1))
    except ValueError:
        raise UserError(f"{name}={environment[name]} in the environment: expected a number") from None


def _tpu_chips() -> list[str]:
    """Returns Google's accelerators on the PCI bus, where JAX searches for TPUs too."""
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
    """Prints a warning to stderr, in process 0 only: all processes have the same ones."""
    if is_first():
        print(f"warning: {text}", file=sys.stderr)


def from_first(value: float) -> float:
    """Returns process 0's value in all processes, such as one read from disks that may differ."""
    if jax.process_count() == 1:
        return value
    # As bytes, because JAX would round to float32.
    sent = multihost_utils.broadcast_one_to_all(np.frombuffer(np.float64(value).tobytes(), np.uint8))
    return float(np.frombuffer(np.asarray(sent).tobytes(), np.float64)[0])


def anywhere(here: bool) -> bool:
    """Returns whether `here` is true in any process."""
    return bool(multihost_utils.process_allgather(np.int32(here)).any()) if jax.process_count() > 1 else here


def check_same(values: Mapping[str, str]) -> None:
    """Checks that all processes were started with the same `values`, texts by name.

    Raises:
      UserError: values differ; the message has the names and this process's values.
    """
    if jax.process_count() == 1:
        return
    # Names first: the gathered arrays must have the same length in all processes.
    names = ", ".join(values)
    if np.ptp(_gathered([names]), 0).any():
        raise UserError(
            f"the processes of this run compare different things, here {names}: install the same version everywhere"
        )
    differs = np.ptp(_gathered(list(values.values())), 0).any(axis=-1)
    if differs.any():
        differing = itertools.compress(values.items(), differs)
        here = ", ".join(f"{name} (here {value})" for name, value in differing)
        raise UserError(f"the processes of this run differ in {here}: start all of them with the same values")


def _gathered(texts: list[str]) -> np.ndarray:
    """Returns a hash of each text in each process, `[processes, texts, 32]` uint8."""
    digests = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in texts]
    return np.asarray(multihost_utils.process_allgather(np.stack(digests)))
