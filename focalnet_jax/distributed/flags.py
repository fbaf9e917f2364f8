"""Flags and environment variables that name the processes of a run; without JAX, which takes a second to load."""

from __future__ import annotations

import argparse

# What `python -m focalnet_jax.launch` sets; the flags of the programs win.
COORDINATOR, PROCESSES, PROCESS = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags for what is not detected."""
    group = parser.add_argument_group("several processes", "needed where TPU, SLURM or Kubernetes do not tell")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument("--processes", type=int, metavar="N")
    group.add_argument("--process", type=int, metavar="I", help="this one's number, from 0")
    group.add_argument("--coordinator-timeout", type=int, default=300, metavar="SECONDS")
