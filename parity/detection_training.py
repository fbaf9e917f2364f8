"""Computes the same run of detection with this package's train step, and with mmdetection's detector and losses.

mmengine makes the AdamW optimizer, decides by name which parameters are decayed, and clips. The formula of the schedule
is that of mmcv 1.x, which mmdetection 2.11 used. mmdetection's samplers take the numbers that this package draws; its
proposals are its own, and must be those of this package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from ml_collections import FrozenConfigDict
from mmengine.optim import OptimWrapper, build_optim_wrapper
from scipy.optimize import linear_sum_assignment

from focalnet_jax.config import model_config
from focalnet_jax.data.cutouts import cutout_of_crop
from focalnet_jax.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from focalnet_jax.distributed.mesh import make_mesh, put_batch
from focalnet_jax.model.layers import example_keys
from focalnet_jax.model.precision import get_precision
from focalnet_jax.parameters import named_leaves
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.tasks.detection import kind
from focalnet_jax.tasks.detection.methods import method_of
from focalnet_jax.tasks.detection.rpn import Proposals
from focalnet_jax.tasks.detection.task import Detection
from focalnet_jax.training.data import open_train_data
from focalnet_jax.training.health import fresh_health
from focalnet_jax.training.spec import make_spec
from focalnet_jax.training.state import TrainSpec, TrainState, augmentation_key, merge_model, random_keys, split_model
from focalnet_jax.training.step import make_train_step
from parity.detector_errors import by_our_names, without_kinks
from parity.detectors import build, ours_from, sample
from parity.measure import relative
from parity.region_losses import calm
from parity.region_samples import anchor_losses, anchor_numbers, candidate_numbers, roi_losses, terms_of
from parity.upernet import arrays

STEPS, WARMUP, SIDE = 20, 10, 128
HEADS = {
    "atss": dict(channels=256, convs=1),  # see parity.detector_errors for the channels
    "mask_rcnn": dict(channels=16, hidden=24),
    "cascade_mask_rcnn": dict(channels=16, hidden=24),
    "sparse_rcnn": dict(channels=32, hidden=48, proposals=20),
}
RATES = {"sparse_rcnn": 2.5e-5}  # the recipes'; of the others 1e-4
ROIS = dict(candidates=100, proposals=60, rois=32)
# The recipes on composites of digits, narrow and shallow; without stochastic depth, which is random in each library.
# Every image is a resized crop with a padding of less than 32 pixels: in more padding, mmdetection makes proposals.
SMALL = [
    "--config.model.embed_dim=12",
    "--config.model.depths=(1,1,1,1)",
    "--config.model.drop_path_rate=0.0",
    "--config.precision=float32",
    "--config.batch_size=4",
    f"--config.total_steps={STEPS}",
    f"--config.schedule.warmup_steps={WARMUP}",
    f"--config.data.image_size=({SIDE},{SIDE})",
    f"--config.data.mask_side={SIDE}",
    f"--config.augment.short_sides=(112,{SIDE})",
    "--config.augment.crop=1.0",
    "--config.augment.crop_short_sides=(96,112)",
    "--config.augment.crop_range=(80,80)",
    f"--config.rois.candidates={ROIS['candidates']}",
    f"--config.rois.proposals={ROIS['proposals']}",
    f"--config.rois.samples={ROIS['rois']}",
]
# XLA's options for a train step that is compiled in a quarter of the time, and is as exact.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_cpu_use_fusion_emitters": False,
}
# Settings of the original's optimizer: no decay of the backbone's norms; the other names occur in Swin only. Sparse
# R-CNN decays all parameters.
PARAMWISE = dict(
    custom_keys={name: dict(decay_mult=0.0) for name in ("absolute_pos_embed", "relative_position_bias_table", "norm")}
)
# Largest distance in pixels of a proposal from this package's, from which it differs by rounding errors.
NEAR = 0.05


@dataclass(frozen=True)
class Drawn:
    """This package's proposals and random numbers of a step, see `parity.region_samples`."""

    proposals: Proposals
    anchors: list[np.ndarray]
    candidates: list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Trajectory:
    """A run: one value per step; weights and running statistics after the last step by our names."""

    losses: np.ndarray  # [STEPS]
    terms: dict[str, np.ndarray]  # each [STEPS]
    rates: np.ndarray  # [STEPS], learning rate of the step's update
    weights: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]


@dataclass(frozen=True)
class Apart:
    """Differences between two runs, for the worst step and the worst variable."""

    loss: float  # relative
    terms: float  # of a term of the loss, relative to the loss
    rate: float  # relative to the highest rate
    weights: float  # relative, 2-norm
    statistics: float  # relative, 2-norm; 0 without BatchNorm

    @classmethod
    def between(cls, ours: Trajectory, theirs: Trajectory) -> Apart:
        """Returns the differences between this package's run and mmdetection's."""
        assert ours.terms.keys() == theirs.terms.keys()
        terms = [np.abs(each - theirs.terms[name]) / theirs.losses for name, each in ours.terms.items()]
        changed = [relative(ours.statistics[name], each) for name, each in theirs.statistics.items()]
        return cls(
            float(np.max(np.abs(ours.losses / theirs.losses - 1))),
            float(np.max(terms)),
            float(np.max(np.abs(ours.rates - theirs.rates)) / theirs.rates.max()),
            max(_weights_apart(name, ours.weights[name], each) for name, each in theirs.weights.items()),
            max(changed, default=0.0),
        )


def _weights_apart(name: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    """Returns the relative difference of a parameter.

    The keys' bias of an attention changes all scores of a query equally, so that its gradient consists of rounding
    errors, which Adam turns into whole updates. It is left out.
    """
    if name.endswith("attention/attn/in_proj/bias"):
        ours, theirs = (np.delete(each.reshape(3, -1), 1, axis=0) for each in (ours, theirs))
    return relative(ours, theirs)


def recipe(name: str, *overrides: str) -> FrozenConfigDict:
    """Returns the config of a small version of a detector's recipe."""
    heads = [f"--config.head.{key}={value}" for key, value in HEADS[name].items()]
    rate = f"--config.schedule.learning_rate={RATES.get(name, 1e-4)}"
    return load_config(f"configs/{name}_coco.py:smoke", [*SMALL, *heads, rate, *overrides])


@cache
def open_task(config: FrozenConfigDict) -> Detection:
    """Returns the task with the training data of a config."""
    return kind.make_task(config, kind.open_examples(config), evaluated=False)


def batches(config: FrozenConfigDict) -> Iterator[Mapping[str, np.ndarray]]:
    """Yields the batches of both runs, from this package's loader."""
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1})
    yield from open_train_data(config, mesh, open_task(config)).batches(0, STEPS)


def start(config: FrozenConfigDict) -> torch.nn.Module:
    """Returns mmdetection's detector from which both runs start."""
    name = config.head.name
    numbers = {"numbers": ROIS} if "mask" in name else {}
    built = build(name, model_config(config), config.model.num_classes, **_options(name), **numbers)
    return without_kinks(calm(built))


def _options(name: str) -> dict[str, int]:
    return HEADS[name] | ({"dynamic": HEADS[name]["channels"] // 4} if name == "sparse_rcnn" else {})


def ours(config: FrozenConfigDict) -> tuple[Trajectory, list[Drawn]]:
    """Returns the run computed by this package's train step, and the draws of its steps."""
    mesh, task, name = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}), open_task(config), config.head.name
    spec, _ = make_spec(config, mesh, task, warmup_steps=WARMUP, total_steps=STEPS)
    initial = ours_from(start(config), name, model_config(config), config.model.num_classes, **_options(name))
    variables = split_model(initial)[1]
    state = TrainState(
        jnp.zeros((), jnp.int32),
        variables.params,
        spec.optimizer.init(variables.params),
        fresh_health(),
        statistics=variables.statistics,
    )
    step, rows, drawn = None, [], []
    draws = _draws_of(spec) if "mask" in name else None
    for batch in batches(config):
        placed = put_batch(batch, mesh)
        step = step or make_train_step(spec).lower(state, placed).compile(QUICK)
        if draws:
            drawn.append(draws(state, placed))
        state, metrics = step(state, placed)
        rows.append({key.removeprefix("train/"): float(each) for key, each in metrics.items()})
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    terms = {key: each for key, each in columns.items() if key.endswith("_loss")}
    assert columns["skipped"][-1] == 0
    weights, statistics = (jax.device_get(named_leaves(each)) for each in (state.params, state.statistics))
    return Trajectory(columns["loss"], terms, columns["learning_rate"], weights, statistics), drawn


def _draws_of(spec: TrainSpec) -> Any:
    """Returns a function of the state and the batch of a step that returns its draws."""
    method, compiled = method_of(spec.task.config), []

    def found(state: TrainState, batch: Any) -> Any:
        model = merge_model(spec.graph, state.result)
        prepared = spec.task.prepare(batch, augmentation_key(spec.seed, state.step))
        images, sampling = prepared["image"], method.sampling
        keys = example_keys(jax.random.fold_in(random_keys(spec.seed)[1], state.step), len(images))
        maps, limits = model.maps(images), (sampling.candidates, sampling.proposals)
        proposals = method.rpn.proposals(*model.rpn(maps), prepared["size"], method.anchors(images), *limits)
        return proposals, candidate_numbers(method, model, maps, prepared, proposals, keys)

    def draws(state: TrainState, batch: Any) -> Drawn:
        key = augmentation_key(spec.seed, state.step)
        anchors = anchor_numbers(method, batch["image"], np.asarray(batch["size"]), key)
        if not compiled:
            compiled.append(jax.jit(found).lower(state, batch).compile(QUICK))
        proposals, candidates = jax.device_get(compiled[0](state, batch))
        return Drawn(proposals, anchors, candidates)

    return draws


def theirs(config: FrozenConfigDict, drawn: list[Drawn], *, paramwise: dict[str, Any] = PARAMWISE) -> Trajectory:
    """Returns the run computed by mmdetection's detector and losses, and mmengine's optimizer, with these draws.

    `paramwise` are mmengine's settings of single parameters, which Sparse R-CNN does not have.
    """
    model = start(config).train()
    wrapper, rows, losses = optimizer_of(config, model, paramwise), [], []
    for number, batch in enumerate(batches(config)):
        for group in wrapper.optimizer.param_groups:
            group["lr"] = rate(number, config)
        terms = _terms(model, batch, drawn[number] if drawn else None)
        loss = sum(terms.values())
        wrapper.update_params(loss)
        rows.append({key: each.item() for key, each in terms.items()})
        losses.append([loss.item(), wrapper.optimizer.param_groups[0]["lr"]])
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    shapes = jax.eval_shape(lambda: split_model(_fresh(config))[1])
    tensors = {key: each.detach().numpy() for key, each in model.named_parameters()}
    running = {key: each for key, each in arrays(model).items() if "running" in key}
    name = config.head.name
    return Trajectory(
        np.array(losses)[:, 0],
        columns,
        np.array(losses)[:, 1],
        by_our_names(tensors, shapes.params, name),
        by_our_names(running, shapes.statistics, name),
    )


def optimizer_of(config: FrozenConfigDict, model: torch.nn.Module, paramwise: dict[str, Any]) -> OptimWrapper:
    """Returns mmengine's optimizer with the original's settings of a detector."""
    settings, all_decayed = config.optimizer, config.head.name == "sparse_rcnn"
    adamw = dict(
        type="AdamW",
        lr=config.schedule.learning_rate,
        betas=(settings.b1, settings.b2),
        weight_decay=settings.weight_decay,
    )
    options = {} if all_decayed else {"paramwise_cfg": paramwise}
    if settings.clip_norm:
        options["clip_grad"] = dict(max_norm=settings.clip_norm, norm_type=2)
    return build_optim_wrapper(model, dict(type="OptimWrapper", optimizer=adamw, **options))


def _fresh(config: FrozenConfigDict) -> nnx.Module:
    """Returns this package's detector with fresh parameters."""
    return open_task(config).build_model(get_precision("float32"), nnx.Rngs(0), "cpu")


def rate(step: int, config: FrozenConfigDict) -> float:
    """Returns the learning rate of mmcv 1.x's step schedule with linear warm-up."""
    highest, first = config.schedule.learning_rate, config.schedule.warmup_learning_rate
    passed = sum(step >= round(share * STEPS) for share in config.schedule.drops)
    regular = highest * config.schedule.drop_factor**passed
    return regular * (1 - (1 - step / WARMUP) * (1 - first / highest)) if step < WARMUP else regular


def _terms(model: torch.nn.Module, batch: Mapping[str, np.ndarray], drawn: Drawn | None) -> dict[str, torch.Tensor]:
    """Returns the terms of mmdetection's loss for a batch of this package's loader."""
    values = (batch["image"] / 255.0 - IMAGENET_MEAN) / IMAGENET_STD
    samples = []
    for index, (height, width) in enumerate(batch["size"].tolist()):
        values[index, height:] = values[index, :, width:] = 0  # mmdetection pads normalized images
        existing = batch["labels"][index] >= 0
        objects = [batch[key][index][existing] for key in ("boxes", "labels")]
        if "masks" in batch:
            crops = zip(batch["masks"][index][existing], batch["frames"][index][existing], strict=True)
            objects.append(np.array([cutout_of_crop(*crop).bitmap((SIDE, SIDE)) for crop in crops]))
        samples.append(sample((height, width), (SIDE, SIDE), *objects))
    images = torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2)
    if drawn is None:
        return terms_of(model.loss(images, samples))
    maps = model.extract_feat(images)
    losses, proposals = anchor_losses(model, maps, samples, drawn.anchors)
    proposals = [_ordered(each, drawn.proposals, index) for index, each in enumerate(proposals)]
    return terms_of(losses | roi_losses(model, maps, samples, proposals, drawn.candidates))


def _ordered(proposals: Any, like: Proposals, image: int) -> Any:
    """Returns mmdetection's proposals of an image in this package's order, in which equal scores may be exchanged."""
    found, wanted = proposals.bboxes.detach().numpy(), like.boxes[image][like.used[image]]
    assert len(found) == len(wanted)
    distances = np.abs(wanted[:, None] - found).max(axis=-1)
    pairs = linear_sum_assignment(distances)  # proposals of different levels may be equal
    assert distances[pairs].max() < NEAR
    return proposals[torch.from_numpy(pairs[1])]
