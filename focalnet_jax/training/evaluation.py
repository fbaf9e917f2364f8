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
    """Returns means of what `eval_step` sums over examples, accuracies in percent, and the number of `examples`."""
    totals: dict[str, float] = {}
    pending: deque[Metrics] = deque()

    def add_oldest() -> None:
        for name, value in jax.device_get(pending.popleft()).items():
            totals[name] = totals.get(name, 0.0) + float(np.float64(value))

    for batch in batches:
        pending.append(eval_step(params, put_batch(batch, mesh)))
        if len(pending) > _BATCHES_IN_FLIGHT:
            add_oldest()
    while pending:
        add_oldest()
    examples = round(totals.pop("examples", 0))  # of a run that is stopped before the first batch
    accuracies = sorted(name for name in totals if name.startswith("top"))
    means = {name: 100 * totals.pop(name) for name in accuracies} | totals
    return {name: total / examples if examples else math.nan for name, total in means.items()} | {"examples": examples}
