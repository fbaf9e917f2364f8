"""Saves checkpoints continuously until it is killed: python -m tests.faults.saver WORKDIR."""

import sys
from pathlib import Path

import jax.numpy as jnp

from focalnet_jax.checkpoint.manager import Checkpoints


def items(step):
    """Returns the state at a step; all values equal the step."""
    return {"params": {"a": jnp.full((256, 256), step, jnp.float32)}, "training": {"step": jnp.int32(step)}}


if __name__ == "__main__":
    checkpoints = Checkpoints(Path(sys.argv[1]), "eval/top1", keep_latest=2, keep_best=1)
    step = checkpoints.latest_step or 0
    items(step)  # creates what is created only once
    print("ready", flush=True)
    while True:
        step += 1
        # The first evaluation is the best, so every save deletes a step between the best and the latest.
        checkpoints.save(step, items(step), {"step": step}, {"eval/top1": 1 / step})
