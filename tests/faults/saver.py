"""Saves checkpoints until it is killed, or COUNT of them: python -m tests.faults.saver WORKDIR [COUNT].

In a workdir with checkpoints it restores the newest one, and fails if its content is not that of its step.
"""

import sys

import jax
import jax.numpy as jnp

from focalnet_jax.checkpoint.manager import Checkpoints
from focalnet_jax.storage.address import to_path
from focalnet_jax.storage.patience import patience


def items(step):
    """Returns the state at a step; all values equal the step."""
    return {"params": {"a": jnp.full((256, 256), step, jnp.float32)}, "training": {"step": jnp.int32(step)}}


if __name__ == "__main__":
    workdir, count = to_path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else sys.maxsize
    with patience() as be_patient:
        checkpoints = Checkpoints(workdir, "eval/top1", keep_latest=2, keep_best=1)
        begin = checkpoints.latest_step or 0
        like = items(begin)  # creates what is created only once
        if begin:
            assert all(bool((leaf == begin).all()) for leaf in jax.tree.leaves(checkpoints.restore(begin, like)))
        print("ready", begin, flush=True)
        be_patient()
        for step in range(begin + 1, begin + 1 + count):
            # The first evaluation is the best, so every save deletes a step between the best and the latest.
            checkpoints.save(step, items(step), {"step": step}, {"eval/top1": 1 / step})
        checkpoints.wait()
        checkpoints.close()
