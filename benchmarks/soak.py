"""Trains under random kills, stops and damaged files, on changing numbers of devices, and checks what was lost.

  python -m benchmarks.soak --minutes 30 [--seed 0] [--workdir DIR]
  python -m tests.storage.serve --failing 0.02 -- python -m benchmarks.soak --workdir gs://bucket/soak

A disturbance is one of
- kill -9;
- kill -9 while the run starts or soon after;
- SIGTERM or SIGINT;
- kill -9, after which a random file of the newest checkpoint gets a flipped bit or is truncated.

After each disturbance the run is restarted, mostly on a different number of devices. The promises are:
- after SIGTERM or SIGINT, every step is saved;
- after kill -9, every save except the last one is complete; in a bucket, where a save that is due may be postponed, the
  checkpoint from which the process started is still there, or a newer one;
- the run resumes from the newest complete checkpoint that is not damaged.

At the end, a second run repeats the same steps without disturbances. It uses the same number of devices for each step,
and restarts only when that number changes. Losses, weights and optimizer state must be bitwise equal. Exits with 1 if
they differ or a promise is broken.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/soak.py

from benchmarks.flags import make_parser
from focalnet_jax.checkpoint.steps import FOLDER, is_complete, list_steps
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.programs.run_command import run_command
from focalnet_jax.storage import files
from focalnet_jax.storage.address import AnyPath, is_bucket, to_path

INTERVAL = 20  # steps between checkpoints
RUN = [
    "--config.model.embed_dim=16",
    "--config.model.depths=(1,2)",
    "--config.data.image_size=16",
    "--config.data.eval_resize=16",
    "--config.log_every_steps=1",
    "--config.total_steps=1000000",
    "--config.schedule.warmup_steps=100",
    "--config.ema_decay=0.99",
    f"--config.checkpoint_every_steps={INTERVAL}",
    "--config.eval_every_steps=1000000",
    "--config.keep_latest=5",
    "--config.writers=()",
]
DEVICES = (1, 2, 4, 8)
KINDS = ("kill", "early", "stop", "flip", "cut")


@dataclass
class Part:
    """Record of one process of the run, which a disturbance ended."""

    start: int | None  # None if it was killed before it reported its first step
    devices: int
    kind: str
    reached: int  # the last step that it logged
    saved: int  # step of the newest complete checkpoint, or 0 without a checkpoint
    good: int  # step of the newest undamaged checkpoint, or 0 without a checkpoint


def environment(devices: int) -> dict[str, str]:
    """Returns the environment of a process with a number of virtual devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def losses(workdir: AnyPath) -> dict[int, float]:
    """Returns the loss of every logged step. An incomplete last line is ignored."""
    path = workdir / "metrics.jsonl"
    lines = files.read_text(path).splitlines(keepends=True) if files.exists(path) else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}


def disturbed(workdir: AnyPath, kind: str, devices: int, rng: random.Random) -> Part:
    """Starts the run, disturbs it after a random time, and damages a file if `kind` is flip or cut."""
    program = [sys.executable, "train.py", "--config", "configs/quickstart.py", "--workdir", str(workdir), *RUN]
    process = subprocess.Popen(
        program, env=environment(devices), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    lines = []
    if kind == "early":
        time.sleep(rng.uniform(0, 8))
    else:
        for line in process.stdout:
            lines.append(line)
            if line.startswith("first step"):
                break
        else:
            raise RuntimeError(f"the run did not start: {process.communicate()[1]}")
        time.sleep(rng.uniform(0, 8))
    process.send_signal(rng.choice([signal.SIGTERM, signal.SIGINT]) if kind == "stop" else signal.SIGKILL)
    rest, stderr = process.communicate()
    if process.returncode != (42 if kind == "stop" else -signal.SIGKILL):
        raise RuntimeError(f"the run ended with exit code {process.returncode} after {kind}: {stderr}")
    folder = workdir / FOLDER
    whole = [0] + [step for step in list_steps(folder) if is_complete(folder / str(step))]
    good = saved = whole[-1]
    if kind in ("flip", "cut"):
        if len(whole) > 2:  # with only one checkpoint, a damaged file must end the run
            newest = folder / str(saved)
            harm(newest / rng.choice(sorted(files.sizes(newest))), kind, rng)
            good = whole[-2]
        else:
            kind = "kill"
    start, reached = started_at([*lines, *rest.splitlines()]), max(losses(workdir), default=0)
    return Part(start, devices, kind, reached, saved, good)


def started_at(lines: list[str]) -> int | None:
    """Returns the step from which the run reports to start, or None if it ended before it reported a step."""
    for line in lines:
        if line.startswith("start "):
            return int(line.split()[-1]) if "resumed from step" in line else 0
    return None


def harm(path: AnyPath, kind: str, rng: random.Random) -> None:
    """Flips a bit of a file, or truncates it."""
    content = bytearray(path.read_bytes())
    if kind == "flip":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    else:
        content = content[: rng.randrange(len(content))]
    path.write_bytes(content)


def undisturbed(workdir: Path, until: int) -> None:
    """Resumes a run in this process up to step `until`, on the devices of this process, and saves."""
    from focalnet_jax.distributed.mesh import put_batch
    from focalnet_jax.training.run import set_up
    from focalnet_jax.training.step import make_train_step
    from focalnet_jax.training.writers import MetricsWriter

    run = set_up(load_config("configs/quickstart.py", RUN), workdir)
    step, writer = make_train_step(run.spec), MetricsWriter(workdir, run.step)
    for batch in run.train_data.batches(run.step, until):
        run.state, run.metrics = step(run.state, put_batch(batch, run.spec.mesh))
        run.step += 1
        writer.write(run.step, run.read_metrics())
    run.save()
    run.checkpoints.wait()
    run.checkpoints.close()


def repeated(workdir: Path, parts: list[Part], last: int) -> None:
    """Repeats all steps in a second workdir, each on the number of devices that computed its final result."""
    starts = [part.start for part in parts] + [last]
    # A process's steps count up to the earliest start of a later process, which computed the rest again.
    ends = [min(starts[index + 1 :]) for index in range(len(parts))]
    counted = [(part.devices, end) for part, end in zip(parts, ends, strict=True) if end > part.start]
    for (devices, end), (others, _) in itertools.zip_longest(counted, counted[1:], fillvalue=(None, 0)):
        if devices != others:
            program = [sys.executable, "-m", "benchmarks.soak", "--until", str(end), "--workdir", str(workdir)]
            subprocess.run(program, env=environment(devices), check=True, stdout=subprocess.DEVNULL)


def broken_promises(parts: list[Part], last: int, *, postpones: bool) -> list[str]:
    """Returns the promises that the run broke.

    Args:
      parts: the processes of the run.
      last: last step of the run.
      postpones: whether the run postpones saves.
    """
    starts = [part.start for part in parts] + [last]
    broken = []
    for part, resumed in zip(parts, starts[1:], strict=True):
        # A save begins after the previous save has ended, so after kill -9 only the last save may be incomplete.
        least = part.start if postpones else (part.reached - 1) // INTERVAL * INTERVAL - INTERVAL
        least = part.reached if part.kind == "stop" else least
        if part.saved < least:
            broken.append(f"{part.kind} at step {part.reached}: the newest checkpoint is step {part.saved}")
        if resumed != part.good:
            broken.append(f"{part.kind} at step {part.reached}: resumed from {resumed} instead of {part.good}")
    return broken


def soak(minutes: float, seed: int, workdir: AnyPath, folder: Path) -> int:
    """Runs the whole test, prints its result and returns the exit code.

    Args:
      minutes: duration of the disturbed run.
      seed: seed of the disturbances.
      workdir: workdir of the disturbed run.
      folder: folder for the workdir of the second run.
    """
    from focalnet_jax.checkpoint.weights import read_arrays

    rng, parts = random.Random(seed), []
    deadline = time.monotonic() + 60 * minutes
    while time.monotonic() < deadline or not parts or parts[-1].kind != "stop":
        kind = rng.choice(KINDS) if time.monotonic() < deadline else "stop"
        devices = parts[-1].devices if parts and rng.random() < 0.3 else rng.choice(DEVICES)
        parts.append(disturbed(workdir, kind, devices, rng))
        text = f"{parts[-1].kind:<5} {parts[-1].devices} devices, steps {parts[-1].start} to {parts[-1].reached}"
        print(f"{len(parts):>4}  {text}", flush=True)
    kinds = collections.Counter(part.kind for part in parts)
    parts = [part for part in parts if part.start is not None]
    last = parts[-1].reached
    repeated(folder / "repeated", parts, last)
    ours, theirs = losses(workdir), losses(folder / "repeated")
    a, b = (
        {
            item: {name: array.tobytes() for name, array in read_arrays(where / FOLDER / str(last), item).items()}
            for item in ("params", "ema", "training")
        }
        for where in (workdir, folder / "repeated")
    )
    broken = broken_promises(parts, last, postpones=is_bucket(workdir))
    starts = [part.start for part in parts] + [last]
    lost = [(part.kind, part.reached - resumed) for part, resumed in zip(parts, starts[1:], strict=True)]
    result = {
        "minutes": minutes,
        "seed": seed,
        "disturbances": kinds,
        "recovered": kinds.total(),
        "steps": last,
        "lost_most": {kind: max((lost for of, lost in lost if of == kind), default=0) for kind in KINDS},
        "broken_promises": broken,
        "losses_equal": ours == theirs and len(ours) == last,
        "weights_equal": a == b,
    }
    print(json.dumps(result))
    return int(bool(broken) or not result["losses_equal"] or not result["weights_equal"])


def main(arguments: list[str]) -> int:
    """Runs the test, or, with --until, a part of the second run."""
    parser = make_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", help="workdir of the disturbed run: a folder (default: a temporary one) or gs://")
    parser.add_argument("--until", type=int, help=argparse.SUPPRESS)  # for the processes of the second run
    flags = parser.parse_args(arguments)
    if flags.until:
        undisturbed(Path(flags.workdir), flags.until)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        workdir = to_path(flags.workdir, "--workdir") if flags.workdir else Path(folder, "soak")
        if files.exists(workdir):
            parser.error(f"--workdir {workdir} exists; the test starts a new run")
        return soak(flags.minutes, flags.seed, workdir, Path(folder))


if __name__ == "__main__":
    run_command(main)
