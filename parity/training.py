"""Computes the same run with this package's train step, and with a loop of torch.optim and timm's scheduler."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import numpy as np
import torch
from flax import nnx
from ml_collections import FrozenConfigDict
from timm.scheduler import CosineLRScheduler

from focalnet_jax.config import model_config
from focalnet_jax.convert.mapping import tensors_to_params
from focalnet_jax.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from focalnet_jax.distributed.mesh import make_mesh, put_batch
from focalnet_jax.parameters import named_leaves
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.tasks import task_kind
from focalnet_jax.tasks.classification.mixing import Mixing
from focalnet_jax.tasks.classification.task import Classification
from focalnet_jax.training.data import open_train_data
from focalnet_jax.training.health import fresh_health
from focalnet_jax.training.optimizer import make_optimizer, make_schedule
from focalnet_jax.training.state import TrainSpec, TrainState, model_graph
from focalnet_jax.training.step import make_train_step
from parity import pytorch
from parity.measure import load, relative

STEPS, WARMUP = 50, 10
# The ImageNet-1K recipe on digits, narrow and shallow; without stochastic depth, which is random in each library.
SMALL = [
    "--config.model.embed_dim=16",
    "--config.model.depths=(1,2)",
    "--config.model.num_classes=10",
    "--config.model.drop_path_rate=0.0",
    "--config.precision=float32",
    "--config.batch_size=32",
    f"--config.total_steps={STEPS}",
    f"--config.schedule.warmup_steps={WARMUP}",
    "--config.data.source=digits",
    "--config.data.path=none",
    "--config.data.image_size=32",
    "--config.data.threads=2",
]


@dataclass(frozen=True)
class Trajectory:
    """A run: one value per step, and the weights after the last step by this package's names."""

    losses: np.ndarray  # [STEPS]
    rates: np.ndarray  # [STEPS], learning rate of the step's update
    norms: np.ndarray  # [STEPS], norm of the gradient before clipping
    weights: dict[str, np.ndarray]


@dataclass(frozen=True)
class Apart:
    """Differences between two runs, for the worst step and the worst parameter."""

    loss: float  # relative
    rate: float  # absolute
    weights: float  # relative, 2-norm

    @classmethod
    def between(cls, ours: Trajectory, theirs: Trajectory) -> Apart:
        """Returns the differences between this package's run and PyTorch's."""
        return cls(
            float(np.max(np.abs(ours.losses / theirs.losses - 1))),
            float(np.max(np.abs(ours.rates - theirs.rates))),
            max(relative(ours.weights[name], value) for name, value in theirs.weights.items()),
        )


def recipe(variant: str = "tiny_lrf", *overrides: str) -> FrozenConfigDict:
    """Returns the config of a small version of configs/imagenet1k.py."""
    return load_config(f"configs/imagenet1k.py:{variant}", [*SMALL, *overrides])


def start(config: FrozenConfigDict) -> torch.nn.Module:
    """Returns the timm model from which both runs start."""
    return pytorch.build(model_config(config), "timm")


def ours(config: FrozenConfigDict, initial: torch.nn.Module) -> Trajectory:
    """Returns the run computed by this package's train step."""
    model = model_config(config)
    mesh, task = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}), _task(config)
    graph, _ = model_graph(task, config.precision, mesh)
    schedule = make_schedule(config.schedule, WARMUP, STEPS)
    optimizer = make_optimizer(config.optimizer, schedule)
    spec = TrainSpec(task, graph, optimizer, schedule, 0, mesh, config.accumulate_steps)
    params = nnx.to_pure_dict(nnx.state(load(initial, model), nnx.Param))
    state = TrainState(jax.numpy.zeros((), jax.numpy.int32), params, optimizer.init(params), fresh_health())
    step, rows = make_train_step(spec), []
    for batch in open_train_data(config, mesh, task).batches(0, STEPS):
        state, metrics = step(state, put_batch(batch, mesh))
        rows.append([float(metrics[f"train/{name}"]) for name in ("loss", "learning_rate", "grad_norm")])
    return Trajectory(*np.array(rows).T, {name: np.asarray(leaf) for name, leaf in named_leaves(state.params).items()})


def _task(config: FrozenConfigDict) -> Classification:
    """Returns the recipe's task, with label smoothing but without mixing, as in the PyTorch loop."""
    kind = task_kind(config.task)
    task = kind.make_task(config, kind.open_examples(config), evaluated=False)
    return replace(task, mixing=Mixing(smoothing=config.augment.label_smoothing))


def theirs(config: FrozenConfigDict, model: torch.nn.Module) -> Trajectory:
    """Returns the run computed by PyTorch on the same batches with the recipe's settings.

    The updates use no code of this package.
    """
    settings, schedule = config.optimizer, config.schedule
    decayed = [p for name, p in model.named_parameters() if p.ndim > 1 and not name.endswith(".bias")]
    others = [p for name, p in model.named_parameters() if p.ndim <= 1 or name.endswith(".bias")]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (settings.b1, settings.b2)
    optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=betas, eps=settings.eps)
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=STEPS,
        lr_min=schedule.min_learning_rate,
        warmup_t=WARMUP,
        warmup_lr_init=schedule.warmup_learning_rate,
        t_in_epochs=False,
    )
    mesh, rows, smoothing = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}), [], config.augment.label_smoothing
    model.train()
    for step, batch in enumerate(open_train_data(config, mesh, _task(config)).batches(0, STEPS), 1):
        pixels = (batch["image"] / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
        logits = model(torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2))
        loss = torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(batch["label"]).long(), label_smoothing=smoothing
        )
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        rows.append([loss.item(), optimizer.param_groups[0]["lr"], norm.item()])
        optimizer.step()
        scheduler.step_update(step)
    tensors = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    return Trajectory(*np.array(rows).T, named_leaves(tensors_to_params(tensors, model_config(config), "timm")))
