"""Measures our train step and inference alternately with PyTorch's, each in a separate process on the same device.

Shared by benchmarks/cpu.py and benchmarks/gpu.py; benchmarks/mmsegmentation.py has the workers of segmentation.
A worker process compiles, reports that it is ready, and then measures on request, so that only one worker computes at a
time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import FrozenConfigDict

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/side_by_side.py

from benchmarks.flags import load_recipe
from focalnet_jax.errors import UserError

if TYPE_CHECKING:
    from focalnet_jax.training.state import TrainSpec

SIZE, CLASSES = 224, 1000
# Unsupported settings of the recipe, and the reasons.
SETTINGS = {
    "batch_size": "--batch sets the images per step",
    "data__image_size": f"images always have {SIZE} px",
    "mesh": "the step runs on one device",
}


Timed = dict[str, Callable[[int], float]]


@dataclass(frozen=True)
class Comparison:
    """The workers of a comparison, and how they are started.

    Attributes:
      module: module that `python -m` runs as a worker, see `work`.
      packages: packages that the module needs.
      workers: names of the workers; the first one measures this package.
      load: returns a recipe's config for a variant and overrides.
    """

    module: str
    packages: tuple[str, ...]
    workers: tuple[str, ...]
    load: Callable[[str, Sequence[str]], FrozenConfigDict]


TIMM = Comparison("benchmarks.side_by_side", ("torch", "timm"), ("ours", "timm eager", "timm compiled"), load_recipe)


def our_step(
    config: FrozenConfigDict, batch: Mapping[str, np.ndarray] | None = None
) -> tuple[Any, Any, dict[str, Any], TrainSpec]:
    """Returns a recipe's train step, its initial state, a batch (default: noise) and its TrainSpec, for one device."""
    import jax.numpy as jnp

    from focalnet_jax.distributed.mesh import make_mesh
    from focalnet_jax.tasks import task_kind
    from focalnet_jax.training.spec import make_spec
    from focalnet_jax.training.state import init_state
    from focalnet_jax.training.step import make_train_step

    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1})
    task = task_kind(config.task).make_task(config, evaluated=False)
    spec, init = make_spec(config, mesh, task, warmup_steps=1, total_steps=10)
    rng, count = np.random.default_rng(0), config.batch_size
    if batch is None:
        images = rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
        batch = {"image": images, "label": rng.integers(0, CLASSES, count).astype(np.int32)}
    given = {name: jnp.asarray(values) for name, values in batch.items()}
    return make_train_step(spec), init_state(spec, init), given, spec


def ours(model: str, batch: int, precision: str, overrides: Sequence[str]) -> Timed:
    """Returns functions that run a number of steps of training or inference, and return the seconds that they take."""
    import jax.numpy as jnp

    from focalnet_jax.training.step import make_eval_step

    config = load_recipe(model, [f"--config.batch_size={batch}", f"--config.precision={precision}", *overrides])
    train_step, state, given, spec = our_step(config)
    counted = given | {"mask": jnp.ones(batch, jnp.float32)}
    eval_step = make_eval_step(spec.graph, spec.mesh, spec.task.evaluations()["eval"])
    return timed_steps(train_step, state, given, lambda variables: eval_step(variables, counted))


def timed_steps(train_step: Any, state: Any, given: Any, infer: Callable[[Any], Any]) -> Timed:
    """Returns functions that run a number of train steps or calls of `infer`, and return their duration in seconds."""
    import jax

    held = [state]

    def train(steps: int) -> float:
        begun = time.perf_counter()
        for _ in range(steps):
            held[0], metrics = train_step(held[0], given)
        jax.block_until_ready(metrics)
        return time.perf_counter() - begun

    def inference(steps: int) -> float:
        begun = time.perf_counter()
        for _ in range(steps):
            results = infer(held[0].result)
        jax.block_until_ready(results)
        return time.perf_counter() - begun

    return {"train": train, "inference": inference}


def theirs(model: str, batch: int, precision: str, *, compiled: bool) -> Timed:
    """Returns the functions of `ours` for timm's model, with AdamW, clipping and channels last as in timm's script."""
    import timm
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    net = timm.create_model(f"focalnet_{model}", drop_path_rate=0.2).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-4, fused=True)
    call = torch.compile(net) if compiled else net
    images = torch.randn(batch, 3, SIZE, SIZE, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (batch,), device=device)
    half = torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def train(steps: int) -> float:
        net.train()
        begun = time.perf_counter()
        for _ in range(steps):
            with half:
                loss = torch.nn.functional.cross_entropy(call(images), labels, label_smoothing=0.1)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        finish()
        return time.perf_counter() - begun

    def infer(steps: int) -> float:
        net.eval()
        begun = time.perf_counter()
        with torch.no_grad(), half:
            for _ in range(steps):
                call(images)
        finish()
        return time.perf_counter() - begun

    return {"train": train, "inference": infer}


def work(ours: Callable[..., Timed], theirs: Callable[..., Timed], arguments: Sequence[str]) -> None:
    """Runs a worker: compiles, and then measures as requested by each line of stdin.

    Args:
      ours: makes the functions that measure this package.
      theirs: makes the functions that measure PyTorch.
      arguments: name of the worker, model, images per batch, precision and overrides.
    """
    name, model, batch, precision, *overrides = arguments
    if name == "ours":
        timed = ours(model, int(batch), precision, overrides)
    else:
        timed = theirs(model, int(batch), precision, compiled=name.endswith("compiled"))
    for run in timed.values():
        run(2)
    print("ready", flush=True)
    for line in sys.stdin:
        what, steps = line.split()
        print(f"took {timed[what](int(steps))}", flush=True)


class Worker:
    """A worker in a separate process."""

    def __init__(self, module: str, name: str, model: str, batch: int, precision: str, overrides: Sequence[str]):
        program = [sys.executable, "-m", module, name, model, str(batch), precision, *overrides]
        self._name = name
        self._process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait(self) -> None:
        """Waits until the worker has compiled."""
        self._line("ready")

    def measure(self, what: str, steps: int) -> float:
        """Returns the seconds that a number of steps take."""
        self._process.stdin.write(f"{what} {steps}\n")
        self._process.stdin.flush()
        return float(self._line("took ").split()[1])

    def close(self) -> None:
        """Ends the worker."""
        self._process.stdin.close()
        self._process.wait()

    def _line(self, beginning: str) -> str:
        for line in self._process.stdout:
            if line.startswith(beginning):
                return line
        raise RuntimeError(f"the worker {self._name} ended early, with exit code {self._process.wait()}")


def need(*packages: str) -> None:
    """Raises `UserError` if one of the packages is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        where = "make parity creates .venv-parity, whose Python has them"
        raise UserError(f"this Python lacks {' and '.join(missing)}; {where}")


def compare(
    model: str,
    batch: int,
    precision: str,
    rounds: int,
    seconds: float,
    overrides: Sequence[str] = (),
    compared: Comparison = TIMM,
) -> dict[str, Any]:
    """Returns images per second of each worker, and our speed divided by the speed of the fastest other worker.

    The workers measure in turns; speeds are medians over rounds. `overrides` (`--config.KEY=VALUE`) change our recipe.
    """
    need(*compared.packages)
    compared.load(model, overrides)
    taken: dict[str, dict[str, list[float]]] = {name: {"inference": [], "train": []} for name in compared.workers}
    with contextlib.ExitStack() as stack:
        given = (model, batch, precision, overrides)
        workers = {name: Worker(compared.module, name, *given) for name in compared.workers}
        for one in workers.values():
            stack.callback(one.close)
        for one in workers.values():
            one.wait()
        for what in ("inference", "train"):
            steps = {name: max(1, math.ceil(seconds / one.measure(what, 1))) for name, one in workers.items()}
            for _ in range(rounds):
                for name, one in workers.items():
                    taken[name][what].append(batch * steps[name] / one.measure(what, steps[name]))
    result: dict[str, Any] = {"model": model, "batch": batch, "precision": precision}
    for what in ("inference", "train"):
        speed = {name: statistics.median(taken[name][what]) for name in compared.workers}
        own, *others = speed.values()
        result[f"{what}_images_per_second"] = {name: round(value, 2) for name, value in speed.items()}
        result[f"{what}_ratio"] = round(own / max(others), 3)
        text = ", ".join(f"{name} {value:.2f}" for name, value in speed.items())
        print(f"{model:<10} {what:<9} images/s: {text}; ratio {result[f'{what}_ratio']:.2f}", flush=True)
    return result


def report(results: list[dict[str, Any]]) -> None:
    """Prints the last line, with geometric means of the ratios over models and the results of each model."""
    means = {
        f"{what}_ratio": round(statistics.geometric_mean(result[f"{what}_ratio"] for result in results), 3)
        for what in ("inference", "train")
    }
    print(json.dumps(means | {"models": results}))


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    work(ours, theirs, sys.argv[1:])
