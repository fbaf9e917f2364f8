"""Progress of a run: rates, fractions of time, and the printed lines."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from focalnet_jax.data.host import Batch
from focalnet_jax.distributed.chips import find_chip
from focalnet_jax.settings import MAIN

_WORTH_PRINTING = 0.02  # smallest fraction of time spent waiting for input that is printed


@dataclass(frozen=True)
class StepCost:
    """The cost of a training step."""

    images: int  # number of images in the global batch
    flops: float  # FLOPs of the forward and backward passes, without rematerialization
    devices: int
    peak: float | None  # FLOP/s of all devices together; None if `distributed.chips` does not list the device


def step_cost(batch_size: int, macs: int, mesh: Mesh) -> StepCost:
    """Returns the cost of a training step, from the MACs of a forward pass of one image.

    A backward pass costs as much as two forward passes, and a MAC is two FLOPs.
    """
    devices = mesh.devices.size
    chip = find_chip(mesh.devices.flat[0].device_kind)
    return StepCost(batch_size, 6.0 * macs * batch_size, devices, chip.flops * devices if chip else None)


class Progress:
    """Measures rates and prints step, epoch, loss, learning rate, rates and the remaining time."""

    def __init__(self, start: int, total: int, steps_per_epoch: int, cost: StepCost):
        self._total, self._steps_per_epoch, self._cost = total, steps_per_epoch, cost
        self._begun = time.perf_counter()
        self._first = self._marked_step = start
        self._marked_time = self._begun  # moved forward by each pause, so that pauses do not count
        self._waited = self._paused = self._useful = 0.0
        self._periods: list[float] = []
        self._compiled = False  # True after the first step
        self._step_begun: float | None = None

    def first_step_done(self) -> None:
        """Prints the duration of the first step, which is mostly compilation, and restarts the clock."""
        now = time.perf_counter()
        print(f"first step, compilation included, took {clock(now - self._begun - self._paused)}", flush=True)
        self._marked_step, self._marked_time, self._waited = self._first + 1, now, 0.0
        self._compiled, self._paused = True, 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context manager that excludes the time inside it from the training time."""
        begun = time.perf_counter()
        yield
        seconds = time.perf_counter() - begun
        self._marked_time += seconds
        self._paused += seconds

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yields the batches, and measures the wait for each batch and the duration of each step."""
        while True:
            begun = time.perf_counter()
            batch = next(batches, None)
            now = time.perf_counter()
            self._waited += now - begun
            if batch is None:
                return
            self._step_ends(now)
            yield batch

    def _step_ends(self, now: float) -> None:
        """Records the duration of a step: the time since the previous call, without pauses."""
        if self._step_begun is not None:
            self._periods.append(now - self._step_begun - self._paused)
        if self._compiled:
            self._step_begun, self._paused = now, 0.0

    def rates(self, step: int) -> dict[str, float | None]:
        """Returns the rates since the last call, and the peak memory, by metric name.

        A value is None before the second step is finished, or if the devices do not provide it.

        - `images_per_second`, `images_per_second_per_device`
        - `step_seconds_p50`, `step_seconds_p90`, `step_seconds_p99`: percentiles of the duration of a step
        - `input_wait`: fraction of the time spent waiting for a batch
        - `mfu`: FLOP/s of the model divided by the peak FLOP/s of the devices
        - `goodput`: fraction of the time since the start that was spent in steps, not in compilation, evaluation,
          saving or waiting
        - `device_memory_bytes`: largest peak memory among the devices of this process
        - `host_memory_bytes`: peak memory of this process
        """
        now = time.perf_counter()
        steps, seconds = step - self._marked_step, now - self._marked_time
        if steps < 1:
            return dict.fromkeys((*_RATES, *_SHARES)) | _memory()
        waited, periods = self._waited, self._periods or [seconds / steps]
        self._useful += seconds - waited
        self._marked_step, self._marked_time, self._waited, self._periods = step, now, 0.0, []
        rate = steps * self._cost.images / seconds
        percentiles = [float(p) for p in np.percentile(periods, (50, 90, 99))]
        flops, peak = steps * self._cost.flops / seconds, self._cost.peak
        shares = (waited / seconds, flops / peak if peak else None, self._useful / (now - self._begun))
        return (
            dict(zip(_RATES, (rate, rate / self._cost.devices, *percentiles), strict=True))
            | dict(zip(_SHARES, shares, strict=True))
            | _memory()
        )

    def print_step(self, step: int, values: dict[str, Any]) -> None:
        """Prints one line for a logged step."""
        rate = values["images_per_second"]
        waited = values["input_wait"] or 0
        wait = f", {waited:.0%} of the time waiting for input" if waited > _WORTH_PRINTING else ""
        mfu = "" if values["mfu"] is None else f", MFU {values['mfu']:.1%}"
        left = clock((self._total - step) * self._cost.images / rate) if rate else "?"
        print(
            f"step {step:>{len(str(self._total))}}/{self._total}  epoch {step / self._steps_per_epoch:.2f}  "
            f"loss {values['train/loss']:.4f}  lr {values['train/learning_rate']:.2e}  "
            f"grad {values['train/grad_norm']:.2f}  {f'{rate:.0f}' if rate else '?'} images/s{mfu}{wait}  eta {left}",
            flush=True,
        )

    def print_evaluation(self, name: str, step: int, result: str) -> None:
        """Prints one line for an evaluation, with its `result` in words."""
        which = "" if name == MAIN else f" {name}"
        print(f"evaluation{which} at step {step}: {result}", flush=True)

    def print_table(self, table: Sequence[Sequence[str]]) -> None:
        """Prints a table of an evaluation, one line per row."""
        print(aligned(table), flush=True)


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Returns a table as lines of text, with the first column aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for first, *others in table:
        cells = [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


_RATES = (
    "images_per_second",
    "images_per_second_per_device",
    "step_seconds_p50",
    "step_seconds_p90",
    "step_seconds_p99",
)
_SHARES = ("input_wait", "mfu", "goodput")


def _memory() -> dict[str, float | None]:
    held = [stats["peak_bytes_in_use"] for device in jax.local_devices() if (stats := device.memory_stats())]
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"device_memory_bytes": max(held, default=None), "host_memory_bytes": peak}


def clock(seconds: float) -> str:
    """Returns a duration in seconds as hours, minutes and seconds, such as `1:02:03`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
