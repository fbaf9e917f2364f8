"""Losses of Mask R-CNN and Cascade Mask R-CNN beside mmdetection's, for the same weights, objects and samples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from focalnet_jax.data.mask_crops import packed_crop
from focalnet_jax.parameters import named_leaves
from focalnet_jax.tasks.detection.mask_rcnn import CASCADE, MASK_RCNN, MaskRCNNMethod, Sampling, sampling_keys
from focalnet_jax.tasks.detection.options import Options
from focalnet_jax.tasks.detection.rpn import RPN, Proposals
from focalnet_jax.tasks.detection.sparse_rcnn import SparseRCNNMethod
from parity.detector_errors import CLASSES, CONFIG, OPTIONS, by_our_names
from parity.detectors import OrderedSampler, build, ours_from, sample
from parity.measure import photos, relative
from parity.upernet import pixels

SLOTS, LEVELS = 9, 5
NUMBERS = dict(rois=64, candidates=300, proposals=200)


@dataclass(frozen=True)
class Scene:
    """Images of a comparison.

    Attributes:
      images: two images on a canvas `[2, H, W, 3]`, whose sides are multiples of 32.
      sizes: their heights and widths without padding, which is less than 32.
      classes: number of classes.
    """

    images: np.ndarray
    sizes: tuple[tuple[int, int], ...]
    classes: int

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the canvas."""
        return self.images.shape[1:3]


def photo_scene() -> Scene:
    """Returns two photos."""
    return Scene(np.array(photos(128, 160)[:2]), ((128, 160), (100, 140)), CLASSES)


@dataclass(frozen=True)
class Losses:
    """Terms of the loss by this package's names, and gradients by this package's names."""

    terms: dict[str, float]
    gradients: dict[str, np.ndarray]


def method_of(name: str, classes: int, proposals: int = 0) -> MaskRCNNMethod | SparseRCNNMethod:
    """Returns this package's method with the numbers of samples of the comparison."""
    if name == "sparse_rcnn":
        return SparseRCNNMethod(classes, proposals, Options())
    cascade = name.startswith("cascade")
    sampling = Sampling(NUMBERS["candidates"], NUMBERS["proposals"], NUMBERS["rois"], NUMBERS["rois"] // 4)
    rpn = RPN(smooth=1 / 9, crossing=False) if cascade else RPN()
    return MaskRCNNMethod(classes, LEVELS, Options(iou=0.5), sampling, rpn, CASCADE if cascade else MASK_RCNN)


@cache
def pair(name: str) -> tuple[torch.nn.Module, nnx.Module]:
    """Returns mmdetection's small detector and this package's, with the same weights.

    The box deltas are small, so that boxes of proposals and of stages stay near objects.
    """
    options = OPTIONS[name] | {"sparse_rcnn": {"proposals": 20}}.get(name, {})
    extra = {} if name == "sparse_rcnn" else {"numbers": NUMBERS}
    theirs = calm(build(name, CONFIG, CLASSES, **options, **extra))
    return theirs, ours_from(theirs, name, CONFIG, CLASSES, **options)


def calm(model: torch.nn.Module) -> torch.nn.Module:
    """Returns a detector with small deltas, and with learned boxes of different places."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "rpn_reg" in key or "fc_reg" in key:
                parameter *= 0.1
            elif "init_proposal_bboxes" in key:
                parameter.uniform_(0.2, 0.6)
    return model


def objects(scene: Scene, seed: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns boxes `[n, 4]`, classes `[n]` and masks `[n, H, W]` of random ellipses in each image."""
    rng, found = np.random.default_rng(seed), []
    for height, width in scene.sizes:
        count = int(rng.integers(3, SLOTS))
        sides = rng.uniform(12, 70, (count, 2)) * min(height, width) / 100
        corners = rng.uniform(0, 1, (count, 2)) * np.maximum((width, height) - sides, 1)
        boxes = np.concatenate([corners, np.minimum(corners + sides, (width, height))], axis=1).astype(np.float32)
        rows, columns = np.mgrid[: scene.canvas[0], : scene.canvas[1]] + 0.5
        centres, radii = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        across, down = (
            (grid[None] - centres[:, axis, None, None]) / radii[:, axis, None, None]
            for axis, grid in enumerate((columns, rows))
        )
        masks = (across**2 + down**2 <= 1) & (rows < height) & (columns < width)
        found.append((boxes, rng.integers(0, scene.classes, count), masks))
    return found


def batch_of(scene: Scene, found: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, jax.Array]:
    """Returns a batch of the images with these objects, padded with 0."""
    images, most = scene.images.copy(), max(scene.canvas)
    arrays = {
        "size": np.array(scene.sizes, np.int32),
        "boxes": np.zeros((len(found), SLOTS, 4), np.float32),
        "labels": np.full((len(found), SLOTS), -1, np.int32),
        "masks": np.zeros((len(found), SLOTS, most, most // 8), np.uint8),
        "frames": np.zeros((len(found), SLOTS, 4), np.float32),
    }
    for index, (boxes, labels, masks) in enumerate(found):
        images[index, scene.sizes[index][0] :], images[index, :, scene.sizes[index][1] :] = 0, 0
        arrays["boxes"][index, : len(boxes)], arrays["labels"][index, : len(labels)] = boxes, labels
        for slot, mask in enumerate(masks):
            crop, frame = packed_crop(mask, 0, 0, most)
            arrays["masks"][index, slot], arrays["frames"][index, slot] = crop, frame
    return {"image": jnp.asarray(images), **{key: jnp.asarray(each) for key, each in arrays.items()}}


def compare(name: str, seed: int = 0) -> tuple[Losses, Losses]:
    """Returns this package's losses and mmdetection's for photos, in training."""
    theirs, ours = pair(name)
    if name == "sparse_rcnn":
        return sparse_losses(theirs, ours, photo_scene(), seed)
    return region_losses(name, theirs, ours, photo_scene(), seed)[:2]


def region_losses(
    name: str, theirs: torch.nn.Module, ours: nnx.Module, scene: Scene, seed: int
) -> tuple[Losses, Losses, dict[str, jax.Array], Proposals]:
    """Returns this package's losses and mmdetection's with the same proposals and samples; the batch and proposals."""
    method, found = method_of(name, scene.classes), objects(scene, seed)
    batch, key, keys = batch_of(scene, found), jax.random.key(seed), training_keys(seed)
    model = theirs.train()
    statistics = {key: each.clone() for key, each in model.state_dict().items()}
    model.zero_grad()
    maps = model.extract_feat(pixels(np.asarray(batch["image"])))
    samples = [
        sample(size, scene.canvas, boxes, labels, masks)
        for size, (boxes, labels, masks) in zip(scene.sizes, found, strict=True)
    ]
    anchors = method.anchors(batch["image"])
    inside = np.ones(len(anchors.boxes), bool)
    OrderedSampler.orders[:] = []
    for index, each in enumerate(jax.random.split(key, len(found))):
        order = np.asarray(jax.random.uniform(each, inside.shape))
        if not method.rpn.crossing:
            height, width = scene.sizes[index]
            edges = anchors.boxes
            inside = (edges[:, :2] >= 0).all(axis=1) & (edges[:, 2] < width) & (edges[:, 3] < height)
            order = order[inside]
        OrderedSampler.orders.append(order)
    cfg = model.train_cfg.rpn_proposal
    rpn_losses, results = model.rpn_head.loss_and_predict(maps, _one_class(samples), proposal_cfg=cfg)
    proposals = _padded([each.bboxes.detach().numpy() for each in results])
    mine, orders = _ours(name, ours, method, batch, key, keys, proposals)
    OrderedSampler.orders[:] = _compact(orders, found)
    losses = rpn_losses | model.roi_head.loss(maps, results, samples)
    assert not OrderedSampler.orders
    terms = _terms(losses)
    sum(terms.values()).backward()
    gradients = {key: each.grad.numpy().copy() for key, each in model.named_parameters()}
    model.load_state_dict(statistics)
    shapes = nnx.to_pure_dict(nnx.state(ours, nnx.Param))
    wanted = by_our_names(gradients, shapes, name)
    return mine, Losses({key: float(each.detach()) for key, each in terms.items()}, wanted), batch, proposals


def training_keys(seed: int) -> jax.Array:
    """Returns the keys of the two images."""
    return jax.random.split(jax.random.key(seed + 1), 2)


def sparse_losses(theirs: torch.nn.Module, ours: nnx.Module, scene: Scene, seed: int) -> tuple[Losses, Losses]:
    """Returns this package's losses of Sparse R-CNN and mmdetection's, in training."""
    name, found = "sparse_rcnn", objects(scene, seed)
    theirs.zero_grad()
    batch = batch_of(scene, found)
    samples = [
        sample(size, scene.canvas, boxes, labels) for size, (boxes, labels, _) in zip(scene.sizes, found, strict=True)
    ]
    maps = theirs.extract_feat(pixels(np.asarray(batch["image"])))
    terms = _terms(theirs.roi_head.loss(maps, theirs.rpn_head.predict(maps, samples), samples))
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

    def orders(params: Any, statistics: Any, batch: Any, proposals: Proposals) -> Any:
        model, found = nnx.merge(graph, params, statistics), []
        draws = sampling_keys(keys, 2)
        for number, done in enumerate(method.passes(model, model.maps(batch["image"]), batch, proposals, keys)):
            used = jnp.concatenate([batch["labels"] >= 0, done.proposals.used], axis=1)
            each = jax.vmap(jax.random.fold_in, (0, None))(draws, number)
            count = used.shape[1]
            found.append((jax.vmap(lambda key, count=count: jax.random.uniform(key, (count,)))(each), used))
        return found

    (_, terms), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, statistics, batch, proposals)
    mine = Losses({key: float(each) for key, each in terms.items()}, _leaves(gradients))
    return mine, jax.jit(orders)(params, statistics, batch, proposals)


def _leaves(tree: Any) -> dict[str, np.ndarray]:
    return {key: np.asarray(each) for key, each in named_leaves(tree).items()}


def _compact(orders: list[tuple[np.ndarray, np.ndarray]], found: list[Any]) -> list[np.ndarray]:
    """Returns the numbers of the candidates that exist, for each stage and image."""
    return [
        np.asarray(numbers)[index][np.asarray(used)[index]] for numbers, used in orders for index in range(len(found))
    ]


def _padded(boxes: list[np.ndarray]) -> Proposals:
    count = max(map(len, boxes))
    filled = np.zeros((len(boxes), count, 4), np.float32)
    used = np.zeros((len(boxes), count), bool)
    for index, each in enumerate(boxes):
        filled[index, : len(each)], used[index, : len(each)] = each, True
    return Proposals(jnp.asarray(filled), jnp.asarray(used, jnp.float32), jnp.asarray(used))


def _one_class(samples: list[Any]) -> list[Any]:
    import copy

    samples = copy.deepcopy(samples)
    for each in samples:
        each.gt_instances.labels = torch.zeros_like(each.gt_instances.labels)
    return samples


def _terms(losses: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Returns mmdetection's terms by this package's names."""
    names = {"loss_rpn_cls": "rpn_class_loss", "loss_rpn_bbox": "rpn_box_loss"}
    names |= {"loss_iou": "giou_loss", "loss_cls": "class_loss", "loss_bbox": "box_loss", "loss_mask": "mask_loss"}
    terms = {}
    for key, value in losses.items():
        stage, _, rest = key.rpartition(".")
        if rest in names:
            prefix = f"stage{int(stage[1:]) + 1}_" if stage else ""
            terms[prefix + names[rest]] = sum(value) if isinstance(value, list) else value
    return terms


def errors(mine: Losses, theirs: Losses) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the relative errors of the terms and of the gradients."""
    assert mine.terms.keys() == theirs.terms.keys()
    terms = {key: abs(each - theirs.terms[key]) / max(abs(theirs.terms[key]), 1e-6) for key, each in mine.terms.items()}
    gradients = {key: relative(each, theirs.gradients[key]) for key, each in mine.gradients.items()}
    return terms, gradients
