"""Computes the same run of segmentation with this package's train step, and with mmsegmentation's model and loss.

mmengine makes the AdamW optimizer and decides by name which parameters are decayed. The formula of the schedule is that
of mmcv 1.x, which mmsegmentation 0.x used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from ml_collections import FrozenConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmseg.structures import OHEMPixelSampler, SegDataSample

from focalnet_jax.config import model_config
from focalnet_jax.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from focalnet_jax.distributed.mesh import make_mesh, put_batch
from focalnet_jax.model.precision import get_precision
from focalnet_jax.parameters import named_leaves
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.tasks.segmentation import kind
from focalnet_jax.tasks.segmentation.task import Segmentation
from focalnet_jax.training.data import open_train_data
from focalnet_jax.training.health import fresh_health
from focalnet_jax.training.spec import make_spec
from focalnet_jax.training.state import TrainState, split_model
from focalnet_jax.training.step import make_train_step
from parity.measure import relative
from parity.upernet import EncoderDecoder, arrays, build, ours_from
from parity.upernet_errors import WITHOUT_GRADIENT, by_our_names

STEPS, WARMUP, EARLY = 50, 10, 5
HEADS = dict(channels=16, auxiliary_channels=12)
# The recipe on composites of digits, narrow and shallow; without dropout and stochastic depth, which are random in each
# library. The rate is higher so that the loss falls. At ten times this rate, rounding errors grow a hundredfold.
SMALL = [
    "--config.model.embed_dim=12",
    "--config.model.depths=(1,1,1,1)",
    "--config.model.focal_windows=9",
    "--config.model.drop_path_rate=0.0",
    "--config.head.dropout=0.0",
    *(f"--config.head.{name}={value}" for name, value in HEADS.items()),
    "--config.batch_size=8",
    f"--config.total_steps={STEPS}",
    f"--config.schedule.warmup_steps={WARMUP}",
    "--config.schedule.learning_rate=1e-4",
    "--config.schedule.warmup_learning_rate=1e-10",
    "--config.data.image_size=64",
]
# Settings of the original's optimizer for AdamW: no decay of the backbone's norms; the other names occur in Swin only.
PARAMWISE = dict(
    custom_keys={name: dict(decay_mult=0.0) for name in ("absolute_pos_embed", "relative_position_bias_table", "norm")}
)


@dataclass(frozen=True)
class Trajectory:
    """A run: one value per step; weights after the last step and statistics after `EARLY` steps by our names."""

    losses: np.ndarray  # [STEPS], with the auxiliary loss
    auxiliary: np.ndarray  # [STEPS]
    rates: np.ndarray  # [STEPS], learning rate of the step's update
    weights: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]


@dataclass(frozen=True)
class Apart:
    """Differences between two runs, for the worst step and the worst variable."""

    first_losses: float  # relative, of the first ten steps
    loss: float  # relative
    auxiliary: float  # relative
    rate: float  # relative to the highest rate
    weights: float  # relative, 2-norm
    statistics: float  # relative, 2-norm

    @classmethod
    def between(cls, ours: Trajectory, theirs: Trajectory) -> Apart:
        """Returns the differences between this package's run and mmsegmentation's."""
        losses = np.abs(ours.losses / theirs.losses - 1)
        return cls(
            float(np.max(losses[:10])),
            float(np.max(losses)),
            float(np.max(np.abs(ours.auxiliary / theirs.auxiliary - 1))),
            float(np.max(np.abs(ours.rates - theirs.rates)) / theirs.rates.max()),
            max(relative(ours.weights[name], each) for name, each in theirs.weights.items() if name not in NOISE),
            max(relative(ours.statistics[name], each) for name, each in theirs.statistics.items() if name not in NOISE),
        )


# Adam turns the rounding errors of gradients that are 0 into whole updates. The biases that they change, and the means
# of the maps that have these biases, are different in every run; BatchNorm subtracts them, so that the loss is not.
NOISE = (*WITHOUT_GRADIENT, "decode_head/lateral_convs/0/bn/mean", "decode_head/lateral_convs/1/bn/mean")


def recipe(*overrides: str) -> FrozenConfigDict:
    """Returns the config of a small version of configs/upernet_ade20k.py."""
    return load_config("configs/upernet_ade20k.py:smoke", [*SMALL, *overrides])


def batches(config: FrozenConfigDict, task: Segmentation) -> Iterator[Mapping[str, np.ndarray]]:
    """Yields the batches of both runs, from this package's loader."""
    yield from open_train_data(config, make_mesh({"data": 1, "fsdp": 1, "tensor": 1}), task).batches(0, STEPS)


@cache
def open_task(config: FrozenConfigDict) -> Segmentation:
    """Returns the task with the training data of a config."""
    return kind.make_task(config, kind.open_examples(config), evaluated=False)


def start(config: FrozenConfigDict) -> EncoderDecoder:
    """Returns mmsegmentation's model from which both runs start, with the losses of the config."""
    model = build(model_config(config), config.model.num_classes, **HEADS)
    model.auxiliary_head.loss_decode.loss_weight = config.head.auxiliary_weight
    if config.head.ohem_kept:
        for head in (model.decode_head, model.auxiliary_head):
            head.sampler = OHEMPixelSampler(head, config.head.ohem_threshold, config.head.ohem_kept)
    return model


def ours(config: FrozenConfigDict) -> Trajectory:
    """Returns the run computed by this package's train step."""
    mesh, task = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}), open_task(config)
    spec, _ = make_spec(config, mesh, task, warmup_steps=WARMUP, total_steps=STEPS)
    initial = ours_from(start(config), model_config(config), config.model.num_classes, **HEADS)
    _, variables = split_model(initial)
    params, statistics = variables.params, variables.statistics
    state = TrainState(
        jnp.zeros((), jnp.int32), params, spec.optimizer.init(params), fresh_health(), statistics=statistics
    )
    step, rows = make_train_step(spec), []
    for number, batch in enumerate(batches(config, task), 1):
        state, metrics = step(state, put_batch(batch, mesh))
        rows.append([float(metrics[f"train/{name}"]) for name in ("loss", "auxiliary_loss", "learning_rate")])
        if number == EARLY:
            early = jax.device_get(named_leaves(state.statistics))
    return Trajectory(*np.array(rows).T, jax.device_get(named_leaves(state.params)), early)


def theirs(config: FrozenConfigDict) -> Trajectory:
    """Returns the run computed by mmsegmentation's model and loss, and mmengine's optimizer.

    With micro-batches, PyTorch adds their gradients, and BatchNorm normalizes each with its own statistics.
    """
    model, settings, schedule = start(config).train(), config.optimizer, config.schedule
    adamw = dict(
        type="AdamW", lr=schedule.learning_rate, betas=(settings.b1, settings.b2), weight_decay=settings.weight_decay
    )
    wrapper = build_optim_wrapper(model, dict(type="OptimWrapper", optimizer=adamw, paramwise_cfg=PARAMWISE))
    optimizer, rows, parts = wrapper.optimizer, [], config.accumulate_steps
    shapes = jax.eval_shape(lambda: split_model(_fresh(config))[1])
    for number, batch in enumerate(batches(config, open_task(config)), 1):
        for group in optimizer.param_groups:
            group["lr"] = rate(number - 1, schedule.learning_rate, schedule.warmup_learning_rate)
        optimizer.zero_grad()
        losses = np.zeros(2)
        for part in range(parts):
            main, auxiliary = losses_of(model, {name: each[part::parts] for name, each in batch.items()})
            ((main + auxiliary) / parts).backward()
            losses += [main.item() / parts, auxiliary.item() / parts]
        optimizer.step()
        rows.append([losses.sum(), losses[1] / config.head.auxiliary_weight, optimizer.param_groups[0]["lr"]])
        if number == EARLY:
            running = {name: each for name, each in arrays(model).items() if "running" in name}
            early = by_our_names(running, shapes.statistics)
    tensors = {name: each.detach().numpy() for name, each in model.named_parameters()}
    return Trajectory(*np.array(rows).T, by_our_names(tensors, shapes.params), early)


def _fresh(config: FrozenConfigDict) -> nnx.Module:
    """Returns this package's model with fresh parameters."""
    return open_task(config).build_model(get_precision("float32"), nnx.Rngs(0), "cpu")


def rate(step: int, highest: float, first: float) -> float:
    """Returns the learning rate of mmcv 1.x's poly schedule with power 1 and linear warm-up."""
    regular = highest * (1 - step / STEPS)
    return regular * (1 - (1 - step / WARMUP) * (1 - first / highest)) if step < WARMUP else regular


def losses_of(model: EncoderDecoder, batch: Mapping[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mmsegmentation's loss and its auxiliary loss times the weight for a batch of this package's loader."""
    pixels = (batch["image"] / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
    for image, (height, width) in zip(pixels, batch["size"], strict=True):
        image[height:] = image[:, width:] = 0  # mmsegmentation pads normalized images
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(mask[None].astype(np.int64))))
        for mask in batch["mask"]
    ]
    found = model.loss(torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2), samples)
    return found["decode.loss_ce"], found["aux.loss_ce"]
