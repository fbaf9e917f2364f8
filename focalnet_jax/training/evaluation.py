"""Accuracy and loss over a whole split, every example exactly once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable

import jax
import numpy as np
from jax.sharding import Mesh

from focalnet_jax.data.loader import Batch
from focalnet_jax.distributed.mesh import put_batch
from focalnet_jax.training.step import Metrics, Params

_BATCHES_IN_FLIGHT = 2  # dispatch runs ahead of the device; without a bound, so does memory


def evaluate(
    eval_step: Callable[[Params, dict[str, jax.Array]], Metrics], params: Params, batches: Iterable[Batch], mesh: Mesh
) -> dict[str, float | int]:
    """`top1` and `top5` in percent, mean cross-entropy `loss`, and the number of `examples` counted."""
    totals = {"top1": 0.0, "top5": 0.0, "loss": 0.0, "examples": 0.0}
    pending: deque[Metrics] = deque()

    def add_oldest() -> None:
        for name, value in jax.device_get(pending.popleft()).items():
            totals[name] += float(np.float64(value))

    for batch in batches:
        pending.append(eval_step(params, put_batch(batch, mesh)))
        if len(pending) > _BATCHES_IN_FLIGHT:
            add_oldest()
    while pending:
        add_oldest()
    examples = round(totals["examples"])
    if not examples:
        return {"top1": math.nan, "top5": math.nan, "loss": math.nan, "examples": 0}
    return {
        "top1": 100 * totals["top1"] / examples,
        "top5": 100 * totals["top5"] / examples,
        "loss": totals["loss"] / examples,
        "examples": examples,
    }
