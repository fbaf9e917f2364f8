"""Sets up a run, and saves it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
from ml_collections import FrozenConfigDict

from focalnet_jax.checkpoint.lock import cannot_write
from focalnet_jax.checkpoint.manager import Checkpoints
from focalnet_jax.checkpoint.steps import FOLDER
from focalnet_jax.config import is_auto, model_config, to_json
from focalnet_jax.distributed.compilation_cache import keep_compiled
from focalnet_jax.distributed.exchange import scalars
from focalnet_jax.distributed.host_values import anywhere, from_first
from focalnet_jax.distributed.mesh import run_mesh
from focalnet_jax.distributed.sharding import list_placement
from focalnet_jax.distributed.startup import is_first, warn
from focalnet_jax.errors import RunFailedError
from focalnet_jax.model.variants import model_metadata
from focalnet_jax.settings import MAIN
from focalnet_jax.storage.address import AnyPath, is_bucket
from focalnet_jax.storage.files import write_whole
from focalnet_jax.system.invocation import command_line
from focalnet_jax.tasks import task_kind
from focalnet_jax.tasks.task import Task
from focalnet_jax.training.agreement import check_same_data, versions
from focalnet_jax.training.banner import print_banner
from focalnet_jax.training.data import TrainData, open_eval_data, open_train_data
from focalnet_jax.training.evaluation import EvalData
from focalnet_jax.training.maps import check_maps
from focalnet_jax.training.optimizer import check_patterns
from focalnet_jax.training.plan import Plan, make_plan
from focalnet_jax.training.profiling import check_steps
from focalnet_jax.training.progress import StepCost, step_cost
from focalnet_jax.training.resolve import resolve, slow_here
from focalnet_jax.training.resume import CONFIG_FILE, check_saved, find_newest, identity, refuse_other_run
from focalnet_jax.training.spec import make_spec
from focalnet_jax.training.start import describe_schedule, first_state, resumed_config, start_task
from focalnet_jax.training.state import TrainSpec, TrainState, abstract_state, abstract_variables, merge_model
from focalnet_jax.training.writers import IN_A_ROW, best_written, check_writers

PARAM_NORM = "train/param_norm"
_JUDGED = ("train/loss", "train/grad_norm", "train/statistics_max", PARAM_NORM)
PLACEMENT_FILE = "placement.txt"
_LONGEST_DELAY = 600.0  # seconds that a slow bucket may delay a save, before training waits for it


@dataclass
class Run:
    """The parts of a run. `step` counts finished updates."""

    config: FrozenConfigDict
    workdir: AnyPath
    train_data: TrainData
    evaluations: dict[str, EvalData]
    plan: Plan
    spec: TrainSpec
    state: TrainState
    checkpoints: Checkpoints
    best: float  # best value of `best_metric` so far
    step: int
    cost: StepCost
    substituted: int  # number of unreadable images that were substituted so far, over all processes
    metrics: dict[str, jax.Array] | None = None  # metrics of the newest update
    owed_since: float | None = None  # time of a save that waits for an earlier save
    owes_save: bool = False  # whether a save that was due was postponed

    @property
    def best_metric(self) -> str:
        """Name of the metric that ranks checkpoints, as in metrics.jsonl."""
        return best_metric(self.spec.task)

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.plan.total

    def read_metrics(self) -> dict[str, float]:
        """Returns the metrics of the newest update.

        Raises:
          RunFailedError: `health.max_skipped` updates in a row were skipped.
        """
        values = scalars(self.metrics or {})
        if values.get(IN_A_ROW, 0) >= self.config.health.max_skipped:
            raise self._failure(values)
        return values

    def save(self, evaluated: dict[str, float] | None = None, *, last: bool = False) -> bool:
        """Saves the state and the metrics in `evaluated`. If this step is already saved, only adds the metrics.

        Parameters that are NaN or infinite are never saved, because no run could resume from them. If the loss, a
        gradient or a statistic is NaN or infinite, the save is postponed until all are finite. With `last`, the state
        is saved at once: it is finite, because the update was skipped. A save that is not the last is also postponed
        while an earlier step is still being written to a bucket.

        Returns:
          Whether the save has started; False if it was postponed.

        Raises:
          RunFailedError: parameters are NaN or infinite and this is the last save, too many updates in a row were
            skipped, or the previous save failed and this is not the last one.
        """
        values = self.read_metrics()
        broken = not math.isfinite(values.get(PARAM_NORM, 0))
        if broken and last:
            raise self._failure(values)
        self.owes_save = not last and not all(math.isfinite(values.get(name, 0)) for name in _JUDGED)
        if self.owes_save:
            print(f"step {self.step}: not saved{'' if broken else ' yet'}: {self._problem(values)}", flush=True)
            return False
        if not last and self._must_postpone():
            self.owes_save = True
            return False
        if last and self.step != self.checkpoints.latest_step:
            self._forgive_failure()
        metadata = {
            "model": model_metadata(self.config.model.name, model_config(self.config)),
            "config": self.config.to_dict(),
            **self.spec.task.metadata(),
            "data": identity(self.train_data.source) | {"substituted": self.substituted},
            "versions": versions(),
            "command": command_line(),
        }
        self.checkpoints.save(self.step, self.state.items(), metadata, evaluated)
        return True

    def _forgive_failure(self) -> None:
        """Waits for an earlier save. If this save failed, prints a warning, so that the last save is still tried."""
        try:
            self.checkpoints.wait()
        except RunFailedError as error:
            warn(f"{error}; trying to save step {self.step}")

    def _must_postpone(self) -> bool:
        """Returns whether to postpone a save because an earlier step is still being written to a bucket.

        After `_LONGEST_DELAY` seconds the result is False, so that the save waits for the earlier one.
        """
        if not is_bucket(self.workdir) or self.step == self.checkpoints.latest_step:
            return False
        if not anywhere(self.checkpoints.busy):
            self.owed_since = None
            return False
        if self.owed_since is None:
            self.owed_since = time.monotonic()
            warn(
                f"step {self.step}: the save of step {self.checkpoints.latest_step} is still in progress; training "
                "continues and saves later"
            )
        return not anywhere(time.monotonic() - self.owed_since > _LONGEST_DELAY)

    def _failure(self, values: dict[str, float]) -> RunFailedError:
        saved = self.checkpoints.last_good()
        good, where = "there is no checkpoint", ""
        if saved is not None:  # the run in this workdir resumes only with the same learning rate
            good, where = f"the last good checkpoint is step {saved}", " in another --workdir"
        return RunFailedError(
            f"step {self.step}: {self._problem(values)}; {good}. Try a lower schedule.learning_rate{where}"
        )

    def _problem(self, values: dict[str, float]) -> str:
        why = [f"{name} is {values[name]}" for name in _JUDGED if not math.isfinite(values.get(name, 0))]
        if not values[IN_A_ROW]:
            return ", ".join(why)
        cause = f"{', '.join(why) or 'a loss spike'}; loss {values['train/loss']:.4g}"
        return f"{values[IN_A_ROW]:.0f} updates in a row were skipped ({cause})"


def best_metric(task: Task) -> str:
    """Returns the name of the metric that ranks the checkpoints of a task, as in metrics.jsonl."""
    return f"{MAIN}/{task.best_metric}"


def set_up(config: FrozenConfigDict, workdir: AnyPath, before_seal: Callable[[], None] = lambda: None) -> Run:
    """Returns the run of `config` in `workdir`, and prints the banner.

    The run starts at the newest checkpoint in `workdir`. Without a checkpoint, it starts from `continue_from`,
    `init_from` or fresh weights.

    Args:
      config: config of the run.
      workdir: its workdir.
      before_seal: see `Checkpoints`.

    Raises:
      UserError: config, data, weights and workdir do not fit each other; checkpoints are unchanged.
      RunFailedError: the checkpoints in `workdir` are damaged or missing.
    """
    found = find_newest(workdir / FOLDER)
    newest = found.step
    refuse_other_run(config, workdir, newest)
    check_saved(workdir, found)
    config, origin = resumed_config(config, workdir / FOLDER, newest)
    # All checks of the config come before the first file is written.
    check_writers(config.writers)
    check_maps(config.log_maps, config.writers)
    keep_compiled(config.compilation_cache)
    mesh, kind = run_mesh(config.mesh.to_dict()), task_kind(config.task)
    source = kind.open_examples(config)
    if is_auto(config, "init_head") and not config.init_from:
        print(
            "hint       training starts from fresh weights; pretrained weights need fewer images and epochs: "
            "--config.init_from=WEIGHTS (docs/getting-started.md, Finetune pretrained weights)"
        )
    config = resolve(config, mesh, source)
    task = kind.make_task(config, source)
    # Both raise UserError if a batch cannot be divided evenly over the devices.
    open_train_data(config, mesh, task)
    open_eval_data(config, mesh, task)
    check_same_data(source, *(evaluation.source for evaluation in task.evaluations().values()))
    plan = make_plan(config, len(source), task.groups)
    check_steps(config.profile_steps, plan.total, plan.first)
    durations = dict(warmup_steps=plan.warmup, total_steps=plan.total - plan.first, first_step=plan.first)
    spec, init = make_spec(config, mesh, task, **durations)
    like = abstract_variables(init, mesh)
    summary = task.summarize(merge_model(spec.graph, like))
    check_patterns(config.optimizer, like.params, task.backbone)
    checkpoint = workdir / FOLDER / str(newest) if newest is not None else None
    task, initial, substituted = start_task(config, task, checkpoint, origin, like)
    spec = replace(spec, task=task)
    train_data, evaluations = open_train_data(config, mesh, task), open_eval_data(config, mesh, task)
    if newest is not None and is_first():
        train_data.substitutions.resume(substituted, read=newest * config.batch_size)
    continued = None
    if origin is not None:
        continued = origin.load(abstract_state(spec, init).items())
        for text in origin.describe(config, source):
            warn(f"differs from the continued run: {text}")

    found.put_aside()
    kept = dict(keep_latest=config.keep_latest, keep_best=config.keep_best)
    checkpoints = Checkpoints(workdir, best_metric(task), **kept, before_seal=before_seal)
    state, start = first_state(spec, init, checkpoints, initial)
    if continued is not None:
        state = TrainState.from_items(continued)
        start = f"continues {origin.checkpoint}: weights, optimizer state, {plan.first} steps"
    try:
        if is_first():
            write_whole(workdir / CONFIG_FILE, to_json(config))
            write_whole(workdir / PLACEMENT_FILE, list_placement(like.params, mesh))
    except OSError as error:
        raise cannot_write(workdir, error) from error
    for text in slow_here(config, mesh):
        warn(text)
    print_banner(config, summary, train_data, evaluations, plan, mesh, like.params, origin=start, workdir=workdir)
    if plan.first:
        print(describe_schedule(spec, plan), flush=True)
    step = int(state.step)
    known = max(checkpoints.best_value(), best_written(workdir, step, best_metric(task))) if is_first() else 0.0
    best = from_first(known)
    cost = step_cost(config.batch_size, summary.macs, mesh)
    return Run(config, workdir, train_data, evaluations, plan, spec, state, checkpoints, best, step, cost, substituted)
