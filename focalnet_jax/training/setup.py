"""From a config to what a run needs: data, mesh, model, and the arithmetic of batches and steps.

Training and evaluation by itself build the same things the same way, so they do it here.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import FrozenConfigDict

from focalnet_jax.config import duration
from focalnet_jax.data import loader, transforms
from focalnet_jax.data.balance import Balance, balanced_weights, labels_of
from focalnet_jax.data.decode import UnreadableImageError
from focalnet_jax.data.held_out import open_split
from focalnet_jax.data.mixing import Mixing
from focalnet_jax.data.policies import ColourJitter, parse_policy
from focalnet_jax.data.preprocessing import Preprocessing, from_config
from focalnet_jax.data.sources import Source, check_examples
from focalnet_jax.data.substitutions import Substitutions
from focalnet_jax.distributed.mesh import LocalPlaces, check_batch_size, make_mesh
from focalnet_jax.errors import UserError
from focalnet_jax.training.optimizer import frozen, make_optimizer, make_schedule
from focalnet_jax.training.resolve import eval_batch_size, model_config, reader_threads
from focalnet_jax.training.step import Params, Task, model_graph


@dataclass(frozen=True)
class EvalData:
    """A split to evaluate on, and which outputs compete, see `make_eval_step`."""

    source: Source
    preprocessing: Preprocessing
    batch_size: int
    reading: loader.ReadOptions
    competing: int | np.ndarray | None = None

    def batches(self) -> Iterator[loader.Batch]:
        """This host's part of batches with every example once."""
        transform = transforms.eval_transform(self.preprocessing)
        return loader.eval_batches(self.source, transform, batch_size=self.batch_size, reading=self.reading)


@dataclass(frozen=True)
class TrainData:
    """A split to train on."""

    source: Source
    transform: transforms.TrainTransform
    batch_size: int
    seed: int
    repeats: int
    balance: Balance | None
    reading: loader.ReadOptions
    substitutions: Substitutions

    def batches(self, start_step: int, end_step: int, stopped: Callable[[], bool] = bool) -> Iterator[loader.Batch]:
        """This host's part of the batches from one step to another; fewer if they do not come and it is `stopped`."""
        batches = loader.train_batches(
            self.source,
            self.transform,
            batch_size=self.batch_size,
            seed=self.seed,
            start_step=start_step,
            end_step=end_step,
            repeats=self.repeats,
            balance=self.balance,
            reading=replace(self.reading, stopped=stopped),
        )
        return self.substitutions.counted(batches)


@dataclass(frozen=True)
class Plan:
    """Durations of a run in steps; `first` is the step it begins at, and `total` the one it ends at."""

    steps_per_epoch: int
    total: int
    warmup: int
    evaluate_every: int
    save_every: int | None  # None: with every evaluation
    first: int = 0  # the step that continue_from had come to


def make_plan(config: FrozenConfigDict, train_examples: int) -> Plan:
    """Every duration of the config converted once."""
    epoch = loader.steps_per_epoch(train_examples, config.batch_size)
    total = duration(config, "total", epoch)
    if total is None:
        raise UserError("neither total_epochs nor total_steps is set; set one of them")
    first = first_step(config)
    if first + total >= 2**31:
        raise UserError(f"{total} steps after the {first} of continue_from: expected fewer than 2**31 together")
    return Plan(
        epoch,
        first + total,
        duration(config, "schedule.warmup", epoch, default=0),
        duration(config, "eval_every", epoch, default=first + total),
        duration(config, "checkpoint_every", epoch),
        first,
    )


def first_step(config: FrozenConfigDict) -> int:
    """The step that the run of `continue_from` had come to, by the name of its checkpoint; 0 for a run of its own."""
    return int(Path(config.continue_from).name) if config.continue_from else 0


def open_train_source(config: FrozenConfigDict) -> Source:
    """The examples to train on; `UserError` where a class has none."""
    source = open_split(config.data, config.data.train_split)
    check_examples(source)
    return source


def open_train_data(config: FrozenConfigDict, mesh: Mesh, source: Source | None = None) -> TrainData:
    """The training split, of the `source` if it is open already; its batch size is checked against the mesh."""
    batch_size = check_batch_size("batch_size", config.batch_size, mesh, config.accumulate_steps)
    source = open_train_source(config) if source is None else source
    with contextlib.suppress(UnreadableImageError):  # which the loader deals with
        if source[0][1].ndim:
            raise UserError(f"{source.name(0)} has several labels: such data are for evaluation (data.eval_split)")
    augment = config.augment
    how = from_config(config.data)
    jitter = ColourJitter(augment.color_jitter) if augment.color_jitter else None
    policies = list(filter(None, [parse_policy(augment.policy, how.normalization.grey), jitter]))
    transform = transforms.train_transform(
        how.size, augment.crop_scale, augment.crop_ratio, augment.flip, policies, how.interpolation
    )
    substitutions = Substitutions(source, config.data.max_unreadable)
    power = config.data.class_balance
    return TrainData(
        source,
        transform,
        batch_size,
        config.seed,
        augment.repeats,
        Balance(labels_of(source), power) if power else None,
        _reading(config, mesh),
        substitutions,
    )


def open_eval_data(
    config: FrozenConfigDict, mesh: Mesh, split: str | None = None, preprocessing: Preprocessing | None = None
) -> EvalData:
    """Opens the evaluation split, or another as one; its batch size is checked against the mesh.

    Pictures are prepared by `preprocessing`, by default the config's.
    """
    key = "batch_size" if config.eval_batch_size is None else "eval_batch_size"
    batch_size = check_batch_size(key, eval_batch_size(config, mesh), mesh)
    source = open_split(config.data, split or config.data.eval_split)
    how = from_config(config.data) if preprocessing is None else preprocessing
    return EvalData(source, how, batch_size, _reading(config, mesh))


def make_mixing(config: FrozenConfigDict) -> Mixing:
    """What is done to batches on the device; its groups are checked against the batch size."""
    augment = config.augment
    mixing = Mixing(
        smoothing=augment.label_smoothing,
        erase=augment.erase,
        mixup=augment.mixup,
        cutmix=augment.cutmix,
        probability=augment.mix_probability,
        switch=augment.mix_switch,
        group=augment.mix_group,
        box=augment.cutmix_box,
        normalization=from_config(config.data).normalization,
    )
    mixing.group_size(config.batch_size)
    return mixing


def make_task(
    config: FrozenConfigDict,
    mesh: Mesh,
    *,
    warmup_steps: int,
    total_steps: int,
    first_step: int = 0,
    class_weights: tuple[float, ...] | None = None,
) -> tuple[Task, Callable[[jax.Array], Params]]:
    """What a run of these durations trains, and a function from a PRNG key to its initial parameters.

    The schedule of `total_steps` begins at `first_step`. `class_weights` are those of the config, see there.
    """
    graph, init_params = model_graph(model_config(config), config.precision, mesh)
    schedule = make_schedule(config.schedule, warmup_steps, total_steps, first_step)
    task = Task(
        graph,
        make_optimizer(config.optimizer, schedule),
        schedule,
        config.model.num_classes,
        make_mixing(config),
        config.seed,
        mesh,
        accumulate_steps=config.accumulate_steps,
        ema_decay=config.ema_decay,
        frozen=partial(frozen, config.optimizer) if config.optimizer.learning_rate_scales else None,
        spike_factor=config.health.spike_factor,
        statistics=config.log_statistics,
        class_weights=class_weights,
    )
    return task, init_params


def class_weights(config: FrozenConfigDict, source: Source | None) -> tuple[float, ...] | None:
    """Returns the weight of each of the K outputs in the loss, or None; without a source, "balanced" are all 1.

    Balanced weights are those of how often classes are drawn: `data.class_balance` leaves less to correct.

    Raises:
      UserError: they are not as many as the outputs.
    """
    outputs, given = config.model.num_classes, config.class_weights
    if given is None:
        return None
    if given == "balanced":
        if source is None:
            return (1.0,) * outputs
        drawn = Balance(labels_of(source), config.data.class_balance).places
        return tuple(balanced_weights(np.pad(drawn, (0, outputs - len(drawn)))).tolist())
    if len(given) != outputs:
        raise UserError(f"class_weights has {len(given)} numbers; expected one for each of the {outputs} classes")
    return tuple(map(float, given))


def keep_compiled(folder: str) -> None:
    """Has JAX keep what it compiles in a folder of this machine, for the next start; where it is told one, in that."""
    if not folder or jax.config.jax_compilation_cache_dir:
        return
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        print(f"warning: compilation_cache={folder}: {error.strerror}; programs are not kept", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(path))


def _reading(config: FrozenConfigDict, mesh: Mesh) -> loader.ReadOptions:
    threads = reader_threads(config)
    return loader.ReadOptions(threads, config.data.workers, config.data.stall_seconds, LocalPlaces(mesh))


def run_mesh(config: FrozenConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over all devices, or those given; `UserError` for one that leaves some of them idle."""
    devices = jax.devices() if devices is None else devices
    mesh, count = make_mesh(config.mesh.to_dict(), devices), len(devices)
    if mesh.size != count:
        sizes = " ".join(f"mesh.{axis}={size}" for axis, size in mesh.shape.items())
        raise UserError(f"{sizes} would use {mesh.size} of {count} devices: give sizes whose product is {count}, or -1")
    return mesh
