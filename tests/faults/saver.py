"""Saves one checkpoint after the other until it is killed: python -m tests.faults.saver WORKDIR."""

import sys
from pathlib import Path

import jax.numpy as jnp

from focalnet_jax.checkpoint.manager import Checkpoints


def items(step):
    """The state at a step: every number says which."""
    return {"params": {"a": jnp.full((256, 256), step, jnp.float32)}, "training": {"step": jnp.int32(step)}}


if __name__ == "__main__":
    checkpoints = Checkpoints(Path(sys.argv[1]), "eval/top1", keep_latest=2, keep_best=1)
    step = checkpoints.latest_step or 0
    items(step)  # what is made only once
    print("ready", flush=True)
    while True:
        step += 1
        # The first evaluation is the best one, so a step in the middle is deleted with every save.
        checkpoints.save(step, items(step), {"step": step}, {"eval/top1": 1 / step})
