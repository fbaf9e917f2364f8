"""Losses of detectors with RoIs beside mmdetection's, for the same weights, objects and samples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from focalnet_jax.parameters import named_leaves
from focalnet_jax.tasks.detection.mask_rcnn import CASCADE, MASK_RCNN, MaskRCNNMethod, Sampling
from focalnet_jax.tasks.detection.options import Options
from focalnet_jax.tasks.detection.rpn import RPN, Proposals
from focalnet_jax.tasks.detection.sparse_rcnn import SparseRCNNMethod
from parity.detector_errors import CLASSES, CONFIG, OPTIONS, by_our_names
from parity.detectors import build, ours_from, sample
from parity.measure import relative
from parity.region_samples import anchor_losses, anchor_numbers, candidate_numbers, roi_losses, terms_of
from parity.scenes import Scene, batch_of, objects, photo_scene
from parity.upernet import pixels

LEVELS = 5
NUMBERS = dict(rois=64, candidates=300, proposals=200)
FEW = dict(rois=64, candidates=10, proposals=20)
"""Fewer candidates than RoIs."""


@dataclass(frozen=True)
class Losses:
    """Terms of the loss by this package's names, and gradients by this package's names."""

    terms: dict[str, float]
    gradients: dict[str, np.ndarray]


def method_of(
    name: str, classes: int, proposals: int = 0, numbers: dict[str, int] = NUMBERS
) -> MaskRCNNMethod | SparseRCNNMethod:
    """Returns this package's method with these numbers of samples."""
    if name == "sparse_rcnn":
        return SparseRCNNMethod(classes, proposals, Options())
    cascade = name.startswith("cascade")
    sampling = Sampling(numbers["candidates"], numbers["proposals"], numbers["rois"], numbers["rois"] // 4)
    rpn = RPN(smooth=1 / 9, crossing=False) if cascade else RPN()
    return MaskRCNNMethod(classes, LEVELS, Options(iou=0.5), sampling, rpn, CASCADE if cascade else MASK_RCNN)


@cache
def pair(name: str, few: bool = False) -> tuple[torch.nn.Module, nnx.Module]:
    """Returns mmdetection's small detector and this package's, with the same weights.

    The box deltas are small, so that boxes of proposals and of stages stay near objects. With `few`, mmdetection's
    numbers are those in `FEW`.
    """
    options = OPTIONS[name] | {"sparse_rcnn": {"proposals": 20}}.get(name, {})
    extra = {} if name == "sparse_rcnn" else {"numbers": FEW if few else NUMBERS}
    theirs = calm(build(name, CONFIG, CLASSES, **options, **extra))
    return theirs, ours_from(theirs, name, CONFIG, CLASSES, **options)


def calm(model: torch.nn.Module) -> torch.nn.Module:
    """Returns a detector with small deltas and, as at the start of a training, improbable classes of ATSS.

    Learned boxes have different places.
    """
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if any(name in key for name in ("rpn_reg", "fc_reg", "atss_reg")):
                parameter *= 0.1
            elif key.endswith("atss_cls.bias"):
                parameter -= 4
            elif "init_proposal_bboxes" in key:
                parameter.uniform_(0.2, 0.6)
    return model


def compare(name: str, seed: int = 0, *, few: bool = False) -> tuple[Losses, Losses]:
    """Returns this package's losses and mmdetection's for photos, in training; see `pair` for `few`."""
    theirs, ours = pair(name, few)
    if name == "sparse_rcnn":
        return sparse_losses(theirs, ours, photo_scene(), seed)
    return region_losses(name, theirs, ours, photo_scene(), seed, FEW if few else NUMBERS)[:2]


def region_losses(
    name: str, theirs: torch.nn.Module, ours: nnx.Module, scene: Scene, seed: int, numbers: dict[str, int] = NUMBERS
) -> tuple[Losses, Losses, dict[str, jax.Array], Proposals]:
    """Returns this package's losses and mmdetection's with the same proposals and samples; the batch and proposals."""
    method, found = method_of(name, scene.classes, numbers=numbers), objects(scene, seed)
    batch, key, keys = batch_of(scene, found), jax.random.key(seed), training_keys(seed)
    model = theirs.train()
    statistics = {key: each.clone() for key, each in model.state_dict().items()}
    model.zero_grad()
    maps = model.extract_feat(pixels(np.asarray(batch["image"])))
    samples = [
        sample(size, scene.canvas, boxes, labels, masks)
        for size, (boxes, labels, masks) in zip(scene.sizes, found, strict=True)
    ]
    drawn = anchor_numbers(method, batch["image"], scene.sizes, key)
    rpn_losses, results = anchor_losses(model, maps, samples, drawn)
    proposals = _padded([each.bboxes.detach().numpy() for each in results])
    mine, drawn = _ours(name, ours, method, batch, key, keys, proposals)
    terms = terms_of(rpn_losses | roi_losses(model, maps, samples, results, drawn))
    sum(terms.values()).backward()
    gradients = {key: each.grad.numpy().copy() for key, each in model.named_parameters()}
    model.load_state_dict(statistics)
    shapes = nnx.to_pure_dict(nnx.state(ours, nnx.Param))
    wanted = by_our_names(gradients, shapes, name)
    return mine, Losses({key: float(each.detach()) for key, each in terms.items()}, wanted), batch, proposals


def training_keys(seed: int) -> jax.Array:
    """Returns the keys of the two images."""
    return jax.random.split(jax.random.key(seed + 1), 2)


def sparse_terms(
    theirs: torch.nn.Module, scene: Scene, seed: int
) -> tuple[dict[str, torch.Tensor], dict[str, jax.Array]]:
    """Returns the terms of mmdetection's loss of Sparse R-CNN in training, and the batch."""
    found = objects(scene, seed)
    batch = batch_of(scene, found)
    samples = [
        sample(size, scene.canvas, boxes, labels) for size, (boxes, labels, _) in zip(scene.sizes, found, strict=True)
    ]
    maps = theirs.extract_feat(pixels(np.asarray(batch["image"])))
    return terms_of(theirs.roi_head.loss(maps, theirs.rpn_head.predict(maps, samples), samples)), batch


def sparse_losses(theirs: torch.nn.Module, ours: nnx.Module, scene: Scene, seed: int) -> tuple[Losses, Losses]:
    """Returns this package's losses of Sparse R-CNN and mmdetection's, in training."""
    name = "sparse_rcnn"
    theirs.zero_grad()
    terms, batch = sparse_terms(theirs, scene, seed)
    sum(terms.values()).backward()
    gradients = {key: each.grad.numpy() for key, each in theirs.named_parameters()}
    graph, params, statistics = nnx.split(ours, nnx.Param, ...)
    method = method_of(name, scene.classes, len(ours.proposals()[0]))

    def loss(params: Any, batch: Any) -> Any:
        prepared = batch | method.prepare(batch, jax.random.key(0))
        return method.loss(nnx.merge(graph, params, statistics), prepared, None)

    params = nnx.to_pure_dict(params)
    (_, parts), mine = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, batch)
    wanted = by_our_names(gradients, params, name)
    return (
        Losses({key: float(each) for key, each in parts.items()}, _leaves(mine)),
        Losses({key: float(each.detach()) for key, each in terms.items()}, wanted),
    )


def _ours(
    name: str,
    ours: nnx.Module,
    method: MaskRCNNMethod,
    batch: dict[str, jax.Array],
    key: jax.Array,
    keys: jax.Array,
    proposals: Proposals,
) -> tuple[Losses, list[tuple[np.ndarray, np.ndarray]]]:
    """Returns this package's losses; and the numbers and the use of the candidates of each stage."""
    graph, *variables = nnx.split(ours, nnx.Param, ...)
    params, statistics = map(nnx.to_pure_dict, variables)

    def loss(params: Any, statistics: Any, batch: Any, proposals: Proposals) -> Any:
        model = nnx.merge(graph, params, statistics)
        prepared = batch | method.prepare(batch, key)
        maps = model.maps(batch["image"])
        parts = method.rpn_losses(model.rpn(maps), prepared)
        passes = method.passes(model, maps, batch, proposals, keys)
        counts = jnp.stack([jnp.array([done.regions.used.sum(), done.regions.positive.sum()]) for done in passes])
        return method.stage_losses(model, maps, prepared, passes, counts / 2, parts)

    def numbers(params: Any, statistics: Any, batch: Any, proposals: Proposals) -> Any:
        model = nnx.merge(graph, params, statistics)
        return candidate_numbers(method, model, model.maps(batch["image"]), batch, proposals, keys)

    (_, terms), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, statistics, batch, proposals)
    mine = Losses({key: float(each) for key, each in terms.items()}, _leaves(gradients))
    return mine, jax.jit(numbers)(params, statistics, batch, proposals)


def _padded(boxes: list[np.ndarray]) -> Proposals:
    count = max(map(len, boxes))
    filled = np.zeros((len(boxes), count, 4), np.float32)
    used = np.zeros((len(boxes), count), bool)
    for index, each in enumerate(boxes):
        filled[index, : len(each)], used[index, : len(each)] = each, True
    return Proposals(jnp.asarray(filled), jnp.asarray(used, jnp.float32), jnp.asarray(used))


def _leaves(tree: Any) -> dict[str, np.ndarray]:
    return {key: np.asarray(each) for key, each in named_leaves(tree).items()}


def errors(mine: Losses, theirs: Losses) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the relative errors of the terms and of the gradients."""
    assert mine.terms.keys() == theirs.terms.keys()
    terms = {key: abs(each - theirs.terms[key]) / max(abs(theirs.terms[key]), 1e-6) for key, each in mine.terms.items()}
    gradients = {key: relative(each, theirs.gradients[key]) for key, each in mine.gradients.items()}
    return terms, gradients
