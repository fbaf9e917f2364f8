"""A run between its setup and its end: what it is made of, where it starts, how it is saved."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

from focalnet_jax.checkpoint.manager import FOLDER, Checkpoints, newest_step, read_metadata
from focalnet_jax.config import default_config, differences, flatten, to_json
from focalnet_jax.convert.load import Loaded, load_into
from focalnet_jax.data.sources import check_labels, check_same_classes
from focalnet_jax.distributed.sharding import list_placement
from focalnet_jax.distributed.startup import from_first, is_first
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.model import summarize
from focalnet_jax.model.variants import model_metadata
from focalnet_jax.training.banner import print_banner
from focalnet_jax.training.optimizer import check_patterns
from focalnet_jax.training.progress import Work, work_of
from focalnet_jax.training.setup import (
    EvalData,
    Plan,
    TrainData,
    check_classes,
    keep_compiled,
    make_plan,
    make_task,
    means_classes,
    model_config,
    open_eval_data,
    open_train_data,
    run_mesh,
)
from focalnet_jax.training.step import (
    TOLD,
    Metrics,
    Params,
    Task,
    TrainState,
    abstract_params,
    abstract_state,
    init_state,
)
from focalnet_jax.training.writers import check_writers
from focalnet_jax.version import __version__

CONFIG_FILE = "config.json"
PLACEMENT_FILE = "placement.txt"


@dataclass
class Run:
    """What a run is made of. `step` counts finished updates."""

    config: FrozenConfigDict
    workdir: Path
    train_data: TrainData
    eval_data: EvalData
    plan: Plan
    task: Task
    state: TrainState
    checkpoints: Checkpoints
    best: float  # the highest eval/top1 so far
    step: int
    work: Work  # of a step
    substituted: int  # pictures that could not be read so far, of all processes
    metrics: Metrics | None = None  # of the newest update

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.plan.total

    def finite_metrics(self) -> dict[str, float]:
        """The newest update's metrics; `RunFailedError` if one is no number any more.

        Called before whatever is saved: nobody could go on from such a state.
        """
        values = {name: float(value) for name, value in jax.device_get(self.metrics or {}).items() if name != TOLD}
        broken = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if broken:
            saved = self.checkpoints.latest_step
            last = f"the last checkpoint is step {saved}" if saved else "there is no checkpoint"
            raise RunFailedError(f"step {self.step}: {', '.join(broken)}; {last}. Try a lower schedule.learning_rate")
        return values

    def save(self, evaluated: dict[str, float] | None = None) -> None:
        """Saves the state; with an evaluation, a checkpoint of this step without one is replaced."""
        self.finite_metrics()
        metadata = {
            "model": model_metadata(self.config.model.name, model_config(self.config)),
            "config": self.config.to_dict(),
            "classes": list(self.train_data.source.class_names),
            "data": _identity(self.train_data) | {"substituted": self.substituted},
            "version": __version__,
        }
        self.checkpoints.save(self.step, self.state.items(), metadata, metrics=evaluated)


def set_up(config: FrozenConfigDict, workdir: Path) -> Run:
    """The run of `config` in `workdir`, from its newest checkpoint if it has one; prints the banner.

    Raises:
      UserError: config, data, weights or workdir do not fit; nothing was changed.
    """
    newest = newest_step(workdir / FOLDER)
    newest = None if (step := int(from_first(-1 if newest is None else newest))) < 0 else step
    _refuse_other_run(config, workdir, newest)
    # All that can refuse the config comes before the first thing written.
    check_writers(config.writers)
    keep_compiled(config.compilation_cache)
    mesh = run_mesh(config)
    model = model_config(config)
    summary = summarize(model, config.data.image_size)
    train_data, eval_data = open_train_data(config, mesh), open_eval_data(config, mesh)
    check_classes(config, train_data.source.class_names, "training", eval_data.source)
    check_labels(train_data.source, config.model.num_classes)
    plan = make_plan(config, len(train_data.source))
    task, init_params = make_task(config, mesh, warmup_steps=plan.warmup, total_steps=plan.total)
    like = abstract_params(init_params, mesh)
    check_patterns(config.optimizer, like)
    substituted = 0
    if newest is not None:
        substituted = _check_checkpoint(config, workdir / FOLDER / str(newest), train_data)
        if is_first():
            train_data.substitutions.go_on(substituted, read=newest * config.batch_size)
    initial = None
    if config.init_from and newest is None:
        names = train_data.source.class_names
        initial = load_into(config.init_from, model, like, head=config.init_head, seed=config.seed)
        if config.init_head == "keep" and means_classes(initial.stated, names):
            hint = "init_head=drop starts a fresh classifier"
            check_same_classes(initial.stated.classes, f"{config.init_from} ({hint})", names, "training")

    checkpoints = Checkpoints(workdir, keep_latest=config.keep_latest, keep_best=config.keep_best)
    state, origin = _first_state(task, init_params, checkpoints, initial)
    try:
        if is_first():
            (workdir / CONFIG_FILE).write_text(to_json(config))
            (workdir / PLACEMENT_FILE).write_text(list_placement(like, mesh))
    except OSError as error:
        raise UserError(f"cannot write to --workdir {workdir}: {error.strerror}; choose another") from error
    print_banner(config, summary, (train_data, eval_data), plan, mesh, like, origin=origin, workdir=workdir)
    best, step = from_first(checkpoints.best_metric()), int(state.step)
    work = work_of(config.batch_size, summary.macs, mesh)
    return Run(config, workdir, train_data, eval_data, plan, task, state, checkpoints, best, step, work, substituted)


def _refuse_other_run(config: FrozenConfigDict, workdir: Path, newest: int | None) -> None:
    path = workdir / CONFIG_FILE
    if not path.exists():
        return
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
        differing = differences(config, stored)
        ours = flatten(ConfigDict(stored)).keys() <= flatten(default_config()).keys()
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): mend or remove it, or choose another --workdir") from error
    # A run that never saved is nothing to go on from, so another config may begin where it failed.
    if newest is not None or not ours:
        _refuse(workdir, differing)


def _identity(data: TrainData) -> dict[str, Any]:
    return {"fingerprint": data.source.fingerprint, "examples": len(data.source)}


def _check_checkpoint(config: FrozenConfigDict, checkpoint: Path, data: TrainData) -> int:
    """How many pictures had been substituted by then.

    Refuses to go on from another config's checkpoint, with other data, or with labels that mean something else.
    """
    stored = read_metadata(checkpoint)
    if "config" not in stored:
        raise UserError(f"{checkpoint} holds converted weights, from which no run goes on: move it out of the workdir")
    _refuse(checkpoint, differences(config, stored["config"]))
    check_same_classes(tuple(stored["classes"]), f"checkpoint {checkpoint}", data.source.class_names, "training")
    ours, theirs = _identity(data), dict(stored["data"])
    substituted = theirs.pop("substituted")
    if theirs != ours:
        raise UserError(
            f"{checkpoint} was trained on other data: {theirs['examples']} examples, fingerprint "
            f"{theirs['fingerprint']}; here are {ours['examples']}, {ours['fingerprint']}. The order of "
            "examples would change: give the same data or another --workdir"
        )
    return substituted


def _refuse(place: Path, differing: list[str]) -> None:
    if differing:
        raise UserError(
            f"{place} holds a run of another config: {'; '.join(differing)}. Give the same config or another --workdir"
        )


def _first_state(
    task: Task,
    init_params: Callable[[jax.Array], Params],
    checkpoints: Checkpoints,
    initial: Loaded | None,
) -> tuple[TrainState, str]:
    """The state to start from, and where it came from in words: the newest checkpoint, `initial`, or fresh."""
    latest = checkpoints.latest_step
    if latest is not None:
        like = abstract_state(task, init_params)
        return TrainState.from_items(checkpoints.restore(latest, like.items())), f"resumed from step {latest}"
    state = init_state(task, init_params)
    if initial is None:
        return state, "fresh weights"
    params = state.params | initial.params
    ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
    return replace(state, params=params, ema=ema), f"weights of {initial.source}"
