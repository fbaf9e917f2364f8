"""Measures the errors between this package's detectors and mmdetection's, for the same weights and photos.

The maps of RoIs are windows of the largest map, so that gradients pass from the heads to the backbone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from focalnet_jax.convert.mapping import from_tensors
from focalnet_jax.convert.tables_detection import detection_entries
from focalnet_jax.model import variant_config
from focalnet_jax.parameters import named_leaves
from parity.detectors import DETECTORS, arrays, build, ours_from
from parity.measure import photos, relative
from parity.upernet import pixels
from tests.convert.golden_detectors import CORNERS, all_outputs, windows

CLASSES = 7
CONFIG = variant_config(
    "focalnet_tiny_lrf", embed_dim=12, depths=(1, 1, 2, 1), focal_windows=(11, 9, 9, 7), drop_path_rate=0.0
)
OPTIONS = {
    # As many as in the original: GroupNorm over few values, on the smallest maps, amplifies the errors of both sides.
    "atss": dict(channels=256, convs=4),
    "mask_rcnn": dict(channels=16, hidden=24),
    "cascade_mask_rcnn": dict(channels=16, hidden=24),
    "sparse_rcnn": dict(channels=32, proposals=len(CORNERS), dynamic=8, hidden=48),
}
SIZES = ((128, 128), (97, 130), (128, 171))


@dataclass(frozen=True)
class DetectorErrors:
    """Relative errors in the 2-norm: the worst output, gradient and running statistic."""

    outputs: float
    gradients: float
    statistics: float


@cache
def pair(name: str) -> tuple[torch.nn.Module, nnx.Module]:
    """Returns mmdetection's small detector and this package's, with the same weights."""
    theirs = build(name, CONFIG, CLASSES, **OPTIONS[name])
    return theirs, ours_from(theirs, name, CONFIG, CLASSES, **OPTIONS[name])


def their_outputs(name: str, model: torch.nn.Module, images: np.ndarray) -> list[torch.Tensor]:
    """Returns all outputs of mmdetection's detector in the order and layout of `all_outputs`."""
    maps = model.extract_feat(pixels(images))
    if name == "atss":
        logits, deltas, centerness = (list(map(_last, each)) for each in model.bbox_head(maps))
        return [*logits, *deltas, *(each[..., 0] for each in centerness)]
    found, batch, count = [_last(each) for each in maps], len(images), len(CORNERS)
    small, large = (windows(found[0], side, torch).permute(0, 1, 4, 2, 3).flatten(0, 1) for side in (7, 14))
    head = model.roi_head
    if name == "sparse_rcnn":
        boxes = model.rpn_head.init_proposal_bboxes.weight
        features = model.rpn_head.init_proposal_features.weight.expand(batch, -1, -1)
        for stage in head.bbox_head:
            logits, deltas, features, _ = stage(small, features)
            found += [logits, deltas, features]
        return [*found, boxes]
    logits, deltas = model.rpn_head(maps)
    found += [*map(_last, logits), *(_last(each).unflatten(-1, (-1, 4)) for each in deltas)]
    several = name.startswith("cascade")
    box_heads, mask_heads = (each if several else [each] for each in (head.bbox_head, head.mask_head))
    for box_head, mask_head in zip(box_heads, mask_heads, strict=True):
        logits, deltas = box_head(small)
        found += [logits.unflatten(0, (batch, count)), deltas.unflatten(0, (batch, count)).unflatten(-1, (-1, 4))]
        found.append(_last(mask_head(large)).unflatten(0, (batch, count)))
    return found


def _last(x: torch.Tensor) -> torch.Tensor:
    """Returns `[B, C, H, W]` as `[B, H, W, C]`."""
    return x.permute(0, 2, 3, 1)


def outputs_error(name: str, size: tuple[int, int]) -> float:
    """Returns the relative error of the worst output for photos of a size, in evaluation."""
    theirs, ours = pair(name)
    with torch.no_grad():
        expected = their_outputs(name, theirs.eval(), photos(*size))
    graph, state = nnx.split(ours)  # an argument: XLA would fold constants for minutes
    found = jax.jit(lambda state, images: all_outputs(nnx.merge(graph, state), images))(state, photos(*size))
    return _worst(found, expected)


def _worst(found: list[jax.Array], expected: list[torch.Tensor]) -> float:
    assert [tuple(each.shape) for each in found] == [tuple(each.shape) for each in expected]
    return max(relative(mine, other.detach()) for mine, other in zip(found, expected, strict=True))


def loss_of(outputs: list[Any], library: Any) -> Any:
    """Returns a loss that depends on all outputs; `library` is `jax.numpy` or `torch`."""
    return sum(library.sin(3 * each).mean() for each in outputs)


def training_errors(name: str) -> DetectorErrors:
    """Returns the errors of a training step with two photos of odd sizes."""
    theirs = without_kinks(build(name, CONFIG, CLASSES, **OPTIONS[name])).train()
    ours = ours_from(theirs, name, CONFIG, CLASSES, **OPTIONS[name])
    images = photos(97, 130)
    expected = their_outputs(name, theirs, images)
    loss_of(expected, torch).backward()
    graph, params, statistics = nnx.split(ours, nnx.Param, nnx.BatchStat)

    def loss(params: Any, statistics: Any, images: jax.Array) -> Any:
        model = nnx.merge(graph, params, statistics)
        outputs = all_outputs(model, images, train=True)
        return loss_of(outputs, jnp), (outputs, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

    (_, (outputs, after)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        nnx.to_pure_dict(params), nnx.to_pure_dict(statistics), images
    )
    found = named_leaves(gradients)
    wanted = by_our_names({key: each.grad.numpy() for key, each in theirs.named_parameters()}, gradients, name)
    left = by_our_names({key: each for key, each in arrays(theirs).items() if "running" in key}, after, name)
    changed = [relative(leaf, left[key]) for key, leaf in named_leaves(after).items()]
    return DetectorErrors(
        _worst(outputs, expected),
        max(relative(leaf, wanted[key]) for key, leaf in found.items()),
        max(changed, default=0.0),
    )


def without_kinks(model: torch.nn.Module) -> torch.nn.Module:
    """Returns the model with biases of GroupNorm that keep the inputs of ReLU away from 0.

    ATSS's towers have a million inputs of ReLU. If one of them is 1e-6 on one side and -1e-6 on the other, gradients
    differ by 2e-3. Three standard deviations away from 0, this is unlikely.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.bias[::2] += 3
                module.bias[1::2] -= 3
    return model


def by_our_names(tensors: dict[str, np.ndarray], like: Any, name: str) -> dict[str, np.ndarray]:
    """Returns arrays by this package's names from mmdetection's tensors for the variables `like`."""
    return named_leaves(from_tensors(tensors, detection_entries(like, CONFIG, name), like))


def rows() -> list[str]:
    """Returns the rows of the table in docs/parity.md."""
    found = []
    for name in DETECTORS:
        errors = {size: outputs_error(name, size) for size in SIZES}
        found += [f"| {name} | outputs | {height}x{width} | {error:.1e} |" for (height, width), error in errors.items()]
        training = training_errors(name)
        found.append(f"| {name} | outputs in training | 97x130 | {training.outputs:.1e} |")
        found.append(f"| {name} | gradient of every parameter | 97x130 | {training.gradients:.1e} |")
        if training.statistics:
            found.append(f"| {name} | running statistics | 97x130 | {training.statistics:.1e} |")
    return found
