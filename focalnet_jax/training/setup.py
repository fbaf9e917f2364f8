"""From a config to what a run needs: data, mesh, model, and the arithmetic of batches and steps.

`train.py` and `eval.py` build the same things the same way, so they do it here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jax
from jax.sharding import Mesh
from ml_collections import FrozenConfigDict

from focalnet_jax.config import duration
from focalnet_jax.data import loader, transforms
from focalnet_jax.data.sources import Source, check_classes, open_source
from focalnet_jax.distributed.mesh import check_batch_size, make_mesh
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig, variant_config


@dataclass(frozen=True)
class Data:
    """Both splits and the batches of them."""

    config: FrozenConfigDict
    train: Source
    evaluation: Source
    eval_batch_size: int

    def train_batches(self, start_step: int, end_step: int) -> Iterator[loader.Batch]:
        """This host's part of the batches from one step to another."""
        config, augment = self.config, self.config.augment
        transform = transforms.train_transform(
            config.data.image_size, augment.crop_scale, augment.crop_ratio, augment.flip
        )
        return loader.train_batches(
            self.train,
            transform,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=start_step,
            end_step=end_step,
            threads=config.data.threads,
            host=_host(),
        )

    def eval_batches(self) -> Iterator[loader.Batch]:
        """This host's part of batches with every evaluation example once."""
        return eval_batches(self.config, self.evaluation, self.eval_batch_size)


@dataclass(frozen=True)
class Plan:
    """Durations of a run in steps."""

    steps_per_epoch: int
    total: int
    warmup: int
    evaluate_every: int
    save_every: int | None  # None: with every evaluation


def make_plan(config: FrozenConfigDict, train_examples: int) -> Plan:
    """Every duration of the config converted once."""
    epoch = loader.steps_per_epoch(train_examples, config.batch_size)
    total = duration(config, "total", epoch)
    if total is None:
        raise UserError("neither total_epochs nor total_steps is set; set one of them")
    if config.log_every_steps < 1:
        raise UserError(f"log_every_steps={config.log_every_steps}; expected at least 1")
    return Plan(
        epoch,
        total,
        duration(config, "schedule.warmup", epoch, default=0),
        duration(config, "eval_every", epoch, default=total),
        duration(config, "checkpoint_every", epoch),
    )


def open_data(config: FrozenConfigDict, mesh: Mesh) -> Data:
    """Both splits, checked against each other, the classifier and the mesh."""
    check_batch_size("batch_size", config.batch_size, mesh)
    size = eval_batch_size(config, mesh)
    splits = [
        open_source(config.data.source, config.data.path, split)
        for split in (config.data.train_split, config.data.eval_split)
    ]
    check_classes(*splits, config.model.num_classes)
    return Data(config, *splits, size)


def eval_batch_size(config: FrozenConfigDict, mesh: Mesh) -> int:
    """The global batch size of evaluation: its own or the training one."""
    if config.eval_batch_size is None:
        return check_batch_size("batch_size", config.batch_size, mesh)
    return check_batch_size("eval_batch_size", config.eval_batch_size, mesh)


def eval_batches(config: FrozenConfigDict, source: Source, batch_size: int) -> Iterator[loader.Batch]:
    """This host's part of batches with every example of `source` once."""
    return loader.eval_batches(
        source,
        transforms.eval_transform(config.data.image_size, config.data.eval_resize),
        batch_size=batch_size,
        threads=config.data.threads,
        host=_host(),
    )


def run_mesh(config: FrozenConfigDict) -> Mesh:
    """The mesh over all devices."""
    return make_mesh(config.mesh.to_dict())


def model_config(config: FrozenConfigDict) -> FocalNetConfig:
    """The variant with the config's overrides."""
    options = config.model.to_dict()
    if options["num_classes"] < 1:
        raise UserError(f"model.num_classes is {options['num_classes']}; training needs at least 1 class")
    return variant_config(options.pop("name"), remat=config.remat, **options)


def _host() -> loader.Host:
    return loader.Host(jax.process_index(), jax.process_count())
