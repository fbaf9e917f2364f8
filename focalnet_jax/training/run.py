"""A run between its setup and its end: what it is made of, where it starts, how it is saved."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import FrozenConfigDict

from focalnet_jax.checkpoint.lock import cannot_write
from focalnet_jax.checkpoint.manager import Checkpoints
from focalnet_jax.checkpoint.steps import FOLDER, read_metadata
from focalnet_jax.config import replaced, to_json, with_stored
from focalnet_jax.convert.load import Loaded, load_into
from focalnet_jax.data.labels import HOW_TO_SAY
from focalnet_jax.distributed.sharding import list_placement
from focalnet_jax.distributed.startup import from_first, is_first
from focalnet_jax.errors import RunFailedError
from focalnet_jax.model import summarize
from focalnet_jax.model.variants import model_metadata
from focalnet_jax.system.files import write_whole
from focalnet_jax.training.agreement import check_same_data, versions
from focalnet_jax.training.banner import print_banner
from focalnet_jax.training.classes import label_evaluation, label_training, loaded_classifier, stored_classifier
from focalnet_jax.training.maps import check_maps
from focalnet_jax.training.optimizer import check_patterns
from focalnet_jax.training.preprocessing import note_difference
from focalnet_jax.training.profiling import check_steps
from focalnet_jax.training.progress import StepCost, step_cost
from focalnet_jax.training.resolve import model_config, resolve, slow_here
from focalnet_jax.training.resume import (
    CONFIG_FILE,
    Origin,
    check_checkpoint,
    check_saved,
    find_newest,
    find_origin,
    identity,
    refuse_other_run,
)
from focalnet_jax.training.setup import (
    EvalData,
    Plan,
    TrainData,
    class_weights,
    keep_compiled,
    make_plan,
    make_task,
    open_eval_data,
    open_train_data,
    open_train_source,
    run_mesh,
)
from focalnet_jax.training.step import (
    EXCHANGED,
    Metrics,
    Params,
    Task,
    TrainState,
    abstract_params,
    abstract_state,
    init_state,
)
from focalnet_jax.training.writers import IN_A_ROW, check_writers

PARAM_NORM = "train/param_norm"
_JUDGED = ("train/loss", "train/grad_norm", PARAM_NORM)
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
    work: StepCost  # of a step
    substituted: int  # pictures that could not be read so far, of all processes
    metrics: Metrics | None = None  # of the newest update
    owes_save: bool = False  # one that was due was put off

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.plan.total

    def read_metrics(self) -> dict[str, float]:
        """The newest update's metrics; `RunFailedError` if too many updates in a row were skipped."""
        values = {name: float(value) for name, value in jax.device_get(self.metrics or {}).items() if name != EXCHANGED}
        if values.get(IN_A_ROW, 0) >= self.config.health.max_skipped:
            raise self._sick(values)
        return values

    def save(self, evaluated: dict[str, float] | None = None, *, last: bool = False) -> None:
        """Saves the state; to a checkpoint of this very step only the evaluation is added.

        Parameters that are no numbers are not saved: whoever went on from there would be lost. Nor is what follows a
        loss or gradient that is no number, until one is again, when the save is made up for; but the `last` chance is
        taken, for such an update is not made, and what is there is as good as before it.

        Raises:
          RunFailedError: the last chance, and parameters that are no numbers; or too many updates in a row skipped.
        """
        values = self.read_metrics()
        broken = not math.isfinite(values.get(PARAM_NORM, 0))
        if broken and last:
            raise self._sick(values)
        self.owes_save = not last and not all(math.isfinite(values.get(name, 0)) for name in _JUDGED)
        if self.owes_save:
            print(f"step {self.step}: not saved{'' if broken else ' yet'}: {self._ails(values)}", flush=True)
            return
        metadata = {
            "model": model_metadata(self.config.model.name, model_config(self.config)),
            "config": self.config.to_dict(),
            "classes": list(self.train_data.source.class_names),
            "data": identity(self.train_data) | {"substituted": self.substituted},
            "versions": versions(),
        }
        self.checkpoints.save(self.step, self.state.items(), metadata, evaluated)

    def _sick(self, values: dict[str, float]) -> RunFailedError:
        saved = self.checkpoints.last_good()
        good, where = "there is no checkpoint", ""
        if saved is not None:  # which goes on with its own config alone
            good, where = f"the last good checkpoint is step {saved}", " in another --workdir"
        return RunFailedError(
            f"step {self.step}: {self._ails(values)}; {good}. Try a lower schedule.learning_rate{where}"
        )

    def _ails(self, values: dict[str, float]) -> str:
        why = [f"{name} is {values[name]}" for name in _JUDGED if not math.isfinite(values[name])]
        if not values[IN_A_ROW]:
            return ", ".join(why)
        told = f"{', '.join(why) or 'leaps'}; loss {values['train/loss']:.4g}"
        return f"{values[IN_A_ROW]:.0f} updates in a row were skipped ({told})"


def set_up(config: FrozenConfigDict, workdir: Path) -> Run:
    """The run of `config` in `workdir`, from its newest checkpoint if it has one; prints the banner.

    Raises:
      UserError: config, data, weights or workdir do not fit; nothing was changed.
    """
    found = find_newest(workdir / FOLDER)
    newest = found.step
    refuse_other_run(config, workdir, newest)
    check_saved(workdir, found)
    config, origin = _as_before(config, workdir / FOLDER, newest)
    # All that can refuse the config comes before the first thing written.
    check_writers(config.writers)
    check_maps(config.log_maps, config.writers)
    keep_compiled(config.compilation_cache)
    mesh = run_mesh(config)
    source = open_train_source(config)
    config = resolve(config, mesh, source)
    model = model_config(config)
    train_data, eval_data = open_train_data(config, mesh, source), open_eval_data(config, mesh)
    check_same_data(train_data.source, eval_data.source)
    plan = make_plan(config, len(train_data.source))
    check_steps(config.profile_steps, plan.total)
    durations = dict(warmup_steps=plan.warmup, total_steps=plan.total - plan.first, first_step=plan.first)
    task, init_params = make_task(config, mesh, **durations)
    like = abstract_params(init_params, mesh)
    summary = summarize(nnx.merge(task.graph, like), config.data.image_size)
    check_patterns(config.optimizer, like)
    substituted, classifier = 0, None
    if newest is not None:
        substituted, names = check_checkpoint(config, workdir / FOLDER / str(newest), train_data)
        classifier = stored_classifier(config, names, "this run")
        if is_first():
            train_data.substitutions.go_on(substituted, read=newest * config.batch_size)
    initial, continued = None, None
    if origin is not None:
        classifier = stored_classifier(config, origin.classes, str(origin.checkpoint))
        continued = origin.load(abstract_state(task, init_params).items())
        for text in origin.describe(config, train_data):
            print(f"warning: not as in the run that is continued: {text}", file=sys.stderr)
    if config.init_from and newest is None:
        initial = load_into(
            config.init_from, model, like, head=config.init_head, seed=config.seed, which=config.init_weights
        )
        note_difference(config, initial.stated, config.init_from)
        if config.init_head != "drop":
            hint = f"{HOW_TO_SAY}; --config.init_head=drop starts a fresh classifier"
            classifier = loaded_classifier(config, initial, config.init_from, hint)
    train_data = label_training(config, train_data, classifier)
    eval_data = label_evaluation(config, eval_data, train_data.source)
    task = replace(task, class_weights=class_weights(config, train_data.source))

    found.put_aside()
    checkpoints = Checkpoints(workdir, keep_latest=config.keep_latest, keep_best=config.keep_best)
    state, start = _first_state(task, init_params, checkpoints, initial)
    if continued is not None:
        state = TrainState.from_items(continued)
        start = f"continues {origin.checkpoint}: weights, optimizer state, {plan.first} steps"
    try:
        if is_first():
            write_whole(workdir / CONFIG_FILE, to_json(config))
            write_whole(workdir / PLACEMENT_FILE, list_placement(like, mesh))
    except OSError as error:
        raise cannot_write(workdir, error) from error
    for text in slow_here(config, mesh):
        print(f"warning: {text}", file=sys.stderr)
    print_banner(config, summary, (train_data, eval_data), plan, mesh, like, origin=start, workdir=workdir)
    _print_choices(task, plan, train_data, eval_data)
    best, step = from_first(checkpoints.best_metric()), int(state.step)
    work = step_cost(config.batch_size, summary.macs, mesh)
    return Run(config, workdir, train_data, eval_data, plan, task, state, checkpoints, best, step, work, substituted)


def _as_before(config: FrozenConfigDict, folder: Path, newest: int | None) -> tuple[FrozenConfigDict, Origin | None]:
    """The config with what its run, or the one it continues, has chosen; and that one, where it begins there."""
    if newest is not None:
        return with_stored(config, read_metadata(folder / str(newest)).get("config", {})), None
    if not config.continue_from:
        return config, None
    origin = find_origin(config.continue_from)
    return replaced(with_stored(config, origin.config), {"continue_from": str(origin.checkpoint)}), origin


def _print_choices(task: Task, plan: Plan, train_data: TrainData, eval_data: EvalData) -> None:
    """Prints what few runs have: a split that was made, balanced or weighed classes, a schedule that follows."""
    if description := getattr(eval_data.source, "description", ""):
        print(f"held out   {description}")
    if train_data.balance is not None:
        print(f"balance    {train_data.balance.describe()}")
    if task.class_weights is not None:
        print(f"weights    of classes in the loss: {min(task.class_weights):.3g} to {max(task.class_weights):.3g}")
    if plan.first:
        print(_describe_schedule(task, plan), flush=True)


def _describe_schedule(task: Task, plan: Plan) -> str:
    """The learning rate of a run that continues another, in one line."""
    first, peak, last = (
        float(task.schedule(step)) for step in (plan.first, plan.first + plan.warmup, max(plan.total - 1, plan.first))
    )
    warmup = f"rises to {peak:.3g} in {plan.warmup} steps" if plan.warmup else "has no warm-up"
    return (
        f"schedule   a new one: the learning rate begins at {first:.3g} in step {plan.first + 1}, {warmup} and ends at "
        f"{last:.3g} in step {plan.total}"
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
