"""The training loop: steps, logging, evaluation and saving. On a signal, the loop saves the last finished step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import jax
from ml_collections import FrozenConfigDict

from focalnet_jax.checkpoint import maintenance
from focalnet_jax.checkpoint.lock import held
from focalnet_jax.checkpoint.preemption import StopRequest
from focalnet_jax.data.loader import never
from focalnet_jax.distributed.exchange import Exchange
from focalnet_jax.distributed.host_values import anywhere, from_first
from focalnet_jax.distributed.mesh import put_batch
from focalnet_jax.distributed.startup import ends_with_the_others, is_first
from focalnet_jax.errors import EXIT_PREEMPTED, RunFailedError, UserError
from focalnet_jax.settings import MAIN
from focalnet_jax.storage.address import AnyPath
from focalnet_jax.storage.mirror import local_folder
from focalnet_jax.storage.patience import patience
from focalnet_jax.training.agreement import check_same_run, check_same_workdir
from focalnet_jax.training.evaluation import evaluate
from focalnet_jax.training.maps import MapsLog
from focalnet_jax.training.predictions import PREDICTIONS, PredictionsLog, stacked
from focalnet_jax.training.profiling import Profile
from focalnet_jax.training.progress import Progress
from focalnet_jax.training.resolve import watchdog_seconds
from focalnet_jax.training.run import Run, set_up
from focalnet_jax.training.step import make_eval_step, make_train_step
from focalnet_jax.training.watchdog import Watchdog
from focalnet_jax.training.writers import WRITTEN, MetricsWriter, NoWriter, was_evaluated


@ends_with_the_others()
def train(config: FrozenConfigDict, workdir: AnyPath) -> int:
    """Trains to the last step. If `workdir` has a run, this run is resumed.

    Returns:
      Exit code of the process: 0 if the run is finished, 42 if a signal stopped it and it was saved.

    Raises:
      UserError: the config, the data and the workdir do not fit each other; checkpoints are unchanged.
      RunFailedError: too many updates in a row were skipped, or a checkpoint is damaged or cannot be written.
    """
    check_same_run(config)
    lock = held(workdir) if is_first() else contextlib.nullcontext(lambda: None)
    on_tpu = jax.devices()[0].platform == "tpu"
    with (
        patience() as be_patient,
        StopRequest(config.grace_seconds) as stop,
        maintenance.watched(on_tpu),
        lock as check_lock,
        local_folder(workdir, WRITTEN if is_first() else (), check_lock) as (folder, copy, check_writable),
    ):
        check_same_workdir(workdir)
        run = set_up(config, workdir, before_seal=copy)
        be_patient()
        watchdog = Watchdog(watchdog_seconds(run.config, run.spec.mesh))
        with contextlib.closing(watchdog), contextlib.closing(run.checkpoints):  # open until all is on disk
            if run.finished and all(_was_evaluated(run, name) for name in run.evaluations):
                more = f"to train further, give another --workdir and --config.continue_from={workdir}"
                print(f"finished: the run in {workdir} already has all {run.plan.total} steps; {more}")
                return 0
            written = (config.writers, run.config.to_dict(), workdir.name)
            with contextlib.closing(MetricsWriter(folder, run.step, *written) if is_first() else NoWriter()) as writer:
                loop = _Loop(run, writer, stop, watchdog, folder, check_writable)
                with contextlib.closing(loop.profile):
                    stopped = loop.run_to_end()
                run.checkpoints.wait()
    if stopped:
        by = stop.received.name if stop.received else "a signal to another process"
        print(f"stopped by {by} and saved at step {run.step}; the same command resumes the run")
        return EXIT_PREEMPTED
    print(f"finished: {run.plan.total} steps; best {run.best_metric} {run.best:.2f} %; everything is in {workdir}")
    return 0


def _was_evaluated(run: Run, name: str) -> bool:
    """Returns whether process 0 has recorded the result of the evaluation `name` at the current step."""
    return bool(from_first(is_first() and was_evaluated(run.workdir, run.step, name)))


class _Loop:
    """Runs the steps of a run, with logging, evaluations and saves."""

    def __init__(
        self,
        run: Run,
        writer: MetricsWriter | NoWriter,
        stop: StopRequest,
        watchdog: Watchdog,
        folder: Path,
        check_writable: Callable[[], None] = lambda: None,
    ):
        self.run, self.writer, self.stop, self.watchdog = run, writer, stop, watchdog
        self.check_writable = check_writable
        self.alone = jax.process_count() == 1
        # Sums over all processes: the number that received a signal, and the number of substituted images.
        self.exchange = Exchange(run.spec.mesh, (0, run.substituted))
        self.progress = Progress(run.step, run.plan.total, run.plan.steps_per_epoch, run.cost)
        self.stop.saved = lambda: run.step if run.checkpoints.holds(run.step) else None
        self.profile = Profile(run.config.profile_steps, folder)
        spec = run.spec
        self.eval_steps = {
            name: make_eval_step(spec.graph, spec.mesh, data.evaluation) for name, data in run.evaluations.items()
        }
        self.maps = MapsLog(spec, run.config.log_maps)
        self.predictions = PredictionsLog(spec, run.evaluations[MAIN].evaluation, run.config.log_predictions)

    def run_to_end(self) -> bool:
        """Runs the remaining steps. Returns whether a signal stopped the run before the end."""
        run, start = self.run, self.run.step
        try:
            return self._steps()
        except UserError:
            if run.step > start and self.alone:  # so that no step is lost, for example to an unreadable image
                run.save(last=True)
            raise

    def _steps(self) -> bool:
        run, config, plan = self.run, self.run.config, self.run.plan
        due = [name for name in self._due() if not _was_evaluated(run, name)]
        if due and not self._evaluate_and_save(due):
            return True
        train_step, first = make_train_step(run.spec), run.step + 1
        # A single process stops even if no batch arrives. Several processes must all stop at the same step.
        stopped = self._asked_to_stop if self.alone else never
        batches = self.progress.timed(run.train_data.batches(run.step, plan.total, stopped))
        for step, batch in enumerate(batches, first):
            if self._asked_to_stop():
                run.save(last=True)
                return True
            before = run.metrics
            self.profile.begin(step, before)
            arrays = self.exchange.give(put_batch(batch, run.spec.mesh), self._own())
            run.state, run.metrics = train_step(run.state, arrays)
            self.exchange.send(run.metrics)
            run.step = step
            # While one step computes, the next batch is fetched. Without this wait, later batches would pile up.
            jax.block_until_ready(before)
            self.exchange.receive(before)
            run.substituted = self._substituted()
            if not self.alone:
                self._check_substituted(step - 1)
            if step == first:
                jax.block_until_ready(run.metrics)
                self.progress.first_step_done()
            if self.profile.ends(step):
                jax.block_until_ready(run.metrics)
                with self.progress.paused():  # writing the trace is not training time
                    self.profile.close()
            self.watchdog.did(f"step {step}")
            if step % config.log_every_steps == 0 or step == plan.total:
                self._log()
            if (due := self._due()) and not self._evaluate_and_save(due):
                return True
            if MAIN not in due and (run.owes_save or (plan.save_every and step % plan.save_every == 0)):
                with self.progress.paused():
                    run.save()
                self.watchdog.did(f"the save of step {step}")
        if not run.finished:
            run.save(last=True)
        return not run.finished

    def _own(self) -> tuple[int, int]:
        """Returns this process's integers for `Exchange`: whether it received a signal, and its substituted images."""
        return int(self.stop.received is not None), self.run.train_data.substitutions.count

    def _asked_to_stop(self) -> bool:
        return bool(self._own()[0] if self.alone else self.exchange.sums[0])

    def _substituted(self) -> int:
        return int(self._own()[1] if self.alone else self.exchange.sums[1])

    def _check_substituted(self, step: int) -> None:
        """Saves the run and raises `UserError` in all processes if too many images were unreadable up to `step`."""
        try:
            self.run.train_data.substitutions.check(self.run.substituted, step * self.run.train_data.batch_size)
        except UserError:
            self.run.save(last=True)
            raise

    def _log(self) -> None:
        run = self.run
        self._check_writable()
        values = run.read_metrics()
        values |= self.progress.rates(run.step)
        values["data/substituted"] = run.substituted
        self.writer.write(run.step, values)
        self.progress.print_step(run.step, values)

    def _check_writable(self) -> None:
        """Raises `RunFailedError`, naming the newest checkpoint, if the workdir can no longer be written."""
        try:
            self.check_writable()
        except RunFailedError as error:
            raise RunFailedError(f"{error}; {self.run.checkpoints.describe_newest()}") from error

    def _due(self) -> list[str]:
        """Returns the names of the evaluations due at this step, the main evaluation first."""
        run = self.run
        every = {name: run.plan.evaluate_every if name == MAIN else run.plan.every[name] for name in run.evaluations}
        return [name for name in every if run.step > 0 and (run.step % every[name] == 0 or run.finished)]

    def _evaluate_and_save(self, due: list[str]) -> bool:
        """Runs the evaluations that are due. Returns False if a signal arrived, after saving the run.

        The main evaluation saves the run if a save is due or if the result is the best so far. In a single process, a
        signal cuts an evaluation short, and the resumed run repeats the evaluation. Several processes finish the
        evaluation, because they cannot agree where to cut it short; they always save the run before it.
        """
        run = self.run
        run.read_metrics()
        jax.block_until_ready(run.state)  # steps that still run count as training time
        cadence = run.step % run.plan.save_every == 0 if run.plan.save_every else True
        saves = (MAIN in due and (cadence or run.finished)) or not self.alone
        with self.progress.paused():
            if saves:
                run.save(last=run.finished)
            for name in due:
                result = self._measure(name)
                if result is None:
                    run.save(last=True)
                    return False
                evaluated = {f"{name}/{metric}": value for metric, value in result.items()}
                if name == MAIN:
                    value = evaluated[run.best_metric]
                    if (saves or value > run.best) and run.save(evaluated, last=run.finished):
                        run.best = max(run.best, value)
                table = run.evaluations[name].evaluation.table()
                self.writer.write(run.step, evaluated | ({f"{name}/table": table} if table else {}))
                if name == MAIN:
                    self._draw()
                self.progress.print_evaluation(name, run.step, run.evaluations[name].evaluation.describe(result))
                if table and run.finished:
                    self.progress.print_table(table)
        stop = not self.alone and anywhere(self.stop.received is not None)  # now, not some steps later
        if stop:  # saves even if the save before the evaluation was postponed
            run.save(last=True)
        return not stop

    def _draw(self) -> None:
        """Writes figures of some images of the main evaluation."""
        variables = self.run.state.result
        maps, predictions = self.maps.draw(variables), self.predictions.draw(variables)
        self.writer.draw(self.run.step, maps | predictions)
        if predictions:
            self.writer.keep(PREDICTIONS, stacked(list(predictions.values())))

    def _measure(self, name: str) -> dict[str, float | int] | None:
        """Returns the metrics of an evaluation, or None if a signal cut the evaluation short."""
        run, data = self.run, self.run.evaluations[name]
        batches = takewhile(lambda _: not (self.alone and self.stop.received), data.batches())
        if name == MAIN:
            batches = self.predictions.watch(self.maps.watch(batches))
        watched = self.watchdog.each(batches, f"a batch of the evaluation at step {run.step}")
        result = evaluate(self.eval_steps[name], run.state.result, watched, run.spec.mesh, data.evaluation)
        return None if self.alone and self.stop.received else result
