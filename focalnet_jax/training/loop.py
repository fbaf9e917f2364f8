"""The training run: set up, resume, and a loop that evaluates, saves, steps and logs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import jax
from ml_collections import FrozenConfigDict

from focalnet_jax.checkpoint.manager import (
    BEST_METRIC,
    FOLDER,
    Checkpoints,
    newest_step,
    read_metadata,
)
from focalnet_jax.checkpoint.preemption import StopRequest
from focalnet_jax.config import differences, to_json
from focalnet_jax.convert.load import load_into
from focalnet_jax.data.sources import check_labels, check_same_classes
from focalnet_jax.distributed.mesh import put_batch
from focalnet_jax.errors import EXIT_PREEMPTED, RunFailedError, UserError
from focalnet_jax.model import summarize
from focalnet_jax.model.variants import model_metadata
from focalnet_jax.training.banner import print_banner
from focalnet_jax.training.evaluation import evaluate
from focalnet_jax.training.optimizer import make_optimizer, make_schedule
from focalnet_jax.training.setup import (
    EvalData,
    Plan,
    TrainData,
    make_plan,
    model_config,
    open_eval_data,
    open_train_data,
    run_mesh,
)
from focalnet_jax.training.step import (
    Params,
    Task,
    TrainState,
    abstract_params,
    abstract_state,
    init_state,
    make_eval_step,
    make_train_step,
    model_graph,
)
from focalnet_jax.training.writers import MetricsWriter, Progress
from focalnet_jax.version import __version__

CONFIG_FILE = "config.json"


@dataclass
class Run:
    """A run between its setup and its end."""

    config: FrozenConfigDict
    workdir: Path
    train_data: TrainData
    eval_data: EvalData
    plan: Plan
    task: Task
    state: TrainState
    checkpoints: Checkpoints
    best: float  # the highest eval/top1 so far

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return int(self.state.step) >= self.plan.total


def train(config: FrozenConfigDict, workdir: Path) -> int:
    """Trains to the end, from where `workdir` left off; returns the process's exit code.

    Raises:
      UserError: the config, the data or the workdir do not fit; nothing was changed.
    """
    with StopRequest() as stop:
        run = _set_up(config, workdir)
        start = int(run.state.step)
        if run.finished:
            print(f"finished: {workdir} holds all {run.plan.total} steps already")
            return 0
        writer = MetricsWriter(workdir, start)
        try:
            stopped = _loop(run, start, writer, stop)
            run.checkpoints.wait()
        finally:
            writer.close()
            run.checkpoints.close()
    if stopped:
        print(f"stopped by {stop.received.name} and saved at step {int(run.state.step)}; the same command goes on")
        return EXIT_PREEMPTED
    print(f"finished: {run.plan.total} steps; best eval/top1 {run.best:.2f} %; everything lies in {workdir}")
    return 0


def _set_up(config: FrozenConfigDict, workdir: Path) -> Run:
    _refuse_other_run(config, workdir)
    # All that can refuse the config comes before the first thing written.
    mesh = run_mesh(config)
    model = model_config(config)
    summary = summarize(model, config.data.image_size)
    train_data, eval_data = open_train_data(config, mesh), open_eval_data(config, mesh)
    check_same_classes(train_data.source.class_names, "training", eval_data.source.class_names, "evaluation")
    check_labels(train_data.source, config.model.num_classes)
    plan = make_plan(config, len(train_data.source))
    graph, init_params = model_graph(model, config.precision)
    schedule = make_schedule(config.schedule, plan.warmup, plan.total)
    optimizer = make_optimizer(config.optimizer, schedule)
    task = Task(
        graph,
        optimizer,
        schedule,
        model.num_classes,
        config.augment.label_smoothing,
        config.seed,
        mesh,
        config.accumulate_steps,
    )
    newest = newest_step(workdir / FOLDER)
    if newest is not None:
        _refuse_other_checkpoint(config, workdir / FOLDER / str(newest), train_data)
    initial = None
    if config.init_from and newest is None:
        initial = load_into(config.init_from, model, abstract_params(init_params, mesh), head=config.init_head)

    checkpoints = Checkpoints(workdir, keep_latest=config.keep_latest, keep_best=config.keep_best)
    state, origin = _first_state(task, init_params, checkpoints, initial)
    try:
        (workdir / CONFIG_FILE).write_text(to_json(config))
    except OSError as error:
        raise UserError(f"cannot write to --workdir {workdir}: {error.strerror}; choose another") from error
    print_banner(config, summary, (train_data, eval_data), plan, mesh, origin=origin, workdir=workdir)
    return Run(config, workdir, train_data, eval_data, plan, task, state, checkpoints, checkpoints.best_metric())


def _refuse_other_run(config: FrozenConfigDict, workdir: Path) -> None:
    stored = workdir / CONFIG_FILE
    try:
        differing = differences(config, json.loads(stored.read_text())) if stored.exists() else []
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{stored} is damaged ({error}): mend or remove it, or choose another --workdir") from error
    _refuse(workdir, differing)


def _refuse_other_checkpoint(config: FrozenConfigDict, checkpoint: Path, data: TrainData) -> None:
    """Refuses to go on from another config's checkpoint, or with labels that mean something else than in it."""
    stored = read_metadata(checkpoint)
    _refuse(checkpoint, differences(config, stored["config"]))
    check_same_classes(tuple(stored["classes"]), f"checkpoint {checkpoint}", data.source.class_names, "training")


def _refuse(place: Path, differing: list[str]) -> None:
    if differing:
        raise UserError(
            f"{place} holds a run of another config: {'; '.join(differing)}. Give the same config or another --workdir"
        )


def _first_state(
    task: Task,
    init_params: Callable[[jax.Array], Params],
    checkpoints: Checkpoints,
    initial: tuple[Params, str] | None,
) -> tuple[TrainState, str]:
    """The state to start from, and where it came from in words: the newest checkpoint, `initial`, or fresh."""
    latest = checkpoints.latest_step
    if latest is not None:
        like = abstract_state(task, init_params)
        return TrainState.from_items(checkpoints.restore(latest, like.items())), f"resumed from step {latest}"
    state = init_state(task, init_params)
    if initial is None:
        return state, "fresh weights"
    params, source = initial
    return replace(state, params=state.params | params), f"weights of {source}"


def _loop(run: Run, start: int, writer: MetricsWriter, stop: StopRequest) -> bool:
    """Runs from step `start` to the end; returns whether a signal stopped it before."""
    config, plan = run.config, run.plan
    train_step = make_train_step(run.task)
    eval_step = make_eval_step(run.task.graph, run.task.mesh)
    progress = Progress(start, plan.total, plan.steps_per_epoch, config.batch_size)

    # `step` counts finished updates, as TrainState does.
    for step, batch in enumerate(run.train_data.batches(start, plan.total), start + 1):
        if stop.received:
            _save(run, step - 1, None)
            return True
        run.state, metrics = train_step(run.state, put_batch(batch, run.task.mesh))
        if step == start + 1:
            jax.block_until_ready(metrics)
            progress.first_step_done()

        log = step % config.log_every_steps == 0 or step == plan.total
        evaluate_now = step % plan.evaluate_every == 0 or step == plan.total
        save_now = step % plan.save_every == 0 if plan.save_every else evaluate_now
        if log or evaluate_now or save_now:
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            _check_finite(values, step, run.checkpoints.latest_step)
        if log:
            values["images_per_second"] = progress.images_per_second(step)
            writer.write(step, values)
            progress.print_step(step, values)

        evaluated = None
        if evaluate_now:
            jax.block_until_ready(run.state)  # steps still running belong to the time before the pause
            with progress.paused():
                # A signal cuts an evaluation short, but for the last one, which a finished run would never make up for.
                last = step == plan.total
                wanted = takewhile(lambda _, last=last: last or not stop.received, run.eval_data.batches())
                result = evaluate(eval_step, run.state.params, wanted, run.task.mesh)
            if stop.received and not last:
                _save(run, step, None)
                return True
            evaluated = {f"eval/{name}": value for name, value in result.items()}
            writer.write(step, evaluated)
            progress.print_evaluation(step, evaluated)

        improved = evaluated is not None and evaluated[BEST_METRIC] > run.best
        if improved:
            run.best = evaluated[BEST_METRIC]
        if save_now or improved or step == plan.total:
            with progress.paused():
                _save(run, step, evaluated)
    return False


def _check_finite(values: dict[str, float], step: int, saved: int | None) -> None:
    """Ends a run whose loss or gradient is no number any more, before it saves what cannot be trained on."""
    broken = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if broken:
        last = f"the last checkpoint is step {saved}" if saved else "there is no checkpoint"
        raise RunFailedError(f"step {step}: {', '.join(broken)}; {last}. Try a lower schedule.learning_rate")


def _save(run: Run, step: int, evaluated: dict[str, float] | None) -> None:
    metadata = {
        "model": model_metadata(run.config.model.name, model_config(run.config)),
        "config": run.config.to_dict(),
        "classes": list(run.train_data.source.class_names),
        "version": __version__,
    }
    run.checkpoints.save(step, run.state.items(), metadata, metrics=evaluated)
