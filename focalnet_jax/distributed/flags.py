"""Flags and environment variables that connect the processes of a run.

This module does not import JAX, because importing JAX takes a second.
"""

from __future__ import annotations

import argparse

# Set by `python -m focalnet_jax.launch`; the flags below take precedence.
COORDINATOR, PROCESSES, PROCESS = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags for connecting processes that are not detected automatically."""
    group = parser.add_argument_group("several processes", "not needed on TPUs, SLURM, Open MPI and Kubernetes")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address at which process 0 listens")
    group.add_argument("--processes", type=int, metavar="N", help="number of processes")
    group.add_argument("--process", type=int, metavar="I", help="index of this process, from 0")
    group.add_argument(
        "--coordinator-timeout",
        type=int,
        default=300,
        metavar="SECONDS",
        help="time to wait until all processes are connected (default: %(default)s)",
    )
