"""Losses and detections of Mask R-CNN and Cascade Mask R-CNN, computed like mmdetection's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from focalnet_jax.model.heads.mask_rcnn import MaskRCNN
from focalnet_jax.model.heads.roi_heads import MASK_SIDE, SIDE
from focalnet_jax.ops.boxes import decode, giou
from focalnet_jax.ops.nms import Detections, multiclass_nms
from focalnet_jax.tasks.detection.anchors import Anchors
from focalnet_jax.tasks.detection.matching import Samples, Thresholds, draw
from focalnet_jax.tasks.detection.options import Options
from focalnet_jax.tasks.detection.regions import (
    Regions,
    candidates,
    class_loss,
    delta_loss,
    mask_loss,
    of_class,
    regions_of,
)
from focalnet_jax.tasks.detection.rpn import RATIOS, RPN, Proposals
from focalnet_jax.tasks.task import Metrics

_FIRST_STRIDE = 4


@dataclass(frozen=True)
class Stage:
    """Training of one stage of the RoI head.

    Attributes:
      thresholds: overlaps of RoIs that are matched to objects.
      stds: divisors of the deltas.
      weight: weight of the stage's losses.
      giou: weight of the GIoU loss of the decoded boxes; 0 for the absolute differences of the deltas.
    """

    thresholds: Thresholds
    stds: tuple[float, float, float, float]
    weight: float = 1.0
    giou: float = 0.0


MASK_RCNN = (Stage(Thresholds(0.5, 0.5, 0.5), (0.1, 0.1, 0.2, 0.2)),)
CASCADE = tuple(
    Stage(Thresholds(overlap, overlap, None), (place, place, side, side), weight, giou=10.0)
    for overlap, place, side, weight in ((0.5, 0.1, 0.2, 1.0), (0.6, 0.05, 0.1, 0.5), (0.7, 0.033, 0.067, 0.25))
)
"""The stages of the original's configurations."""


@dataclass(frozen=True)
class Sampling:
    """Numbers of boxes in training.

    Attributes:
      candidates: boxes per level before the non-maximum suppression of proposals.
      proposals: proposals per image after it.
      rois: RoIs per image.
      positives: largest number of RoIs per image with an object.
    """

    candidates: int = 2000
    proposals: int = 1000
    rois: int = 512
    positives: int = 128


@dataclass(frozen=True)
class MaskRCNNMethod:
    """`Method` of Mask R-CNN and Cascade Mask R-CNN.

    Attributes:
      num_classes: number of classes K.
      levels: number of levels of the neck.
      options: thresholds and largest numbers of detections.
      sampling: numbers of boxes in training.
      rpn: training of the region proposal network.
      stages: stages of the RoI head.
    """

    num_classes: int
    levels: int
    options: Options
    sampling: Sampling
    rpn: RPN
    stages: tuple[Stage, ...]

    def anchors(self, images: jax.Array) -> Anchors:
        """Returns the anchors of padded images `[B, H, W, 3]`."""
        return Anchors(images.shape[1:3], self.levels, _FIRST_STRIDE, RATIOS)

    def prepare(self, batch: Mapping[str, jax.Array], key: jax.Array) -> dict[str, Any]:
        """Returns samples of the anchors of a global batch, and the weights of the losses of anchors."""
        return self.rpn.targets(batch, self.anchors(batch["image"]), key)

    def loss(self, model: MaskRCNN, batch: Mapping[str, Any], keys: jax.Array | None) -> tuple[jax.Array, Metrics]:
        """Returns the mean loss of prepared images, and its parts: of the proposals, and of each stage."""
        maps = model.maps(batch["image"], keys)
        outputs = model.rpn(maps)
        parts = self.rpn_losses(outputs, batch)
        proposals = self._proposals(*outputs, batch["size"], self.anchors(batch["image"]), self.sampling)
        if keys is None:
            draws = jax.random.split(jax.random.key(0), len(batch["size"]))
        else:
            draws = jax.vmap(jax.random.fold_in, (0, None))(keys, 1)
        return self.stage_losses(model, maps, batch, proposals, draws, parts, train=keys is not None)

    def rpn_losses(self, outputs: tuple[Any, Any], batch: Mapping[str, Any]) -> Metrics:
        """Returns the losses of the region proposal network, whose outputs are logits and deltas of all levels."""
        logits, deltas = outputs
        anchors = self.anchors(batch["image"])
        classes, boxes = self.rpn.losses(_flat(logits), _flat_deltas(deltas), batch, anchors)
        return {"rpn_class_loss": classes, "rpn_box_loss": boxes}

    def stage_losses(
        self,
        model: MaskRCNN,
        maps: Sequence[jax.Array],
        batch: Mapping[str, Any],
        proposals: Proposals,
        keys: jax.Array,
        parts: Metrics,
        *,
        train: bool,
    ) -> tuple[jax.Array, Metrics]:
        """Returns the sum of `parts` and of the losses of all stages, and all parts.

        Args:
          model: the detector.
          maps: maps of the neck.
          batch: `size`, `boxes`, `labels`, `masks` and `frames`.
          proposals: proposals of the images.
          keys: PRNG keys `[B]` of the samples.
          parts: losses of the proposals.
          train: whether BatchNorm uses the statistics of the batch.
        """
        for number, stage in enumerate(self.stages):
            found, matched = candidates(batch, proposals, stage.thresholds)
            samples = self.sampled(matched, jax.vmap(jax.random.fold_in, (0, None))(keys, number))
            regions = regions_of(found, samples, batch, self.num_classes)
            losses, proposals = self.stage(model, maps, batch, regions, samples, number, train=train)
            name = f"stage{number + 1}_" if len(self.stages) > 1 else ""
            parts = parts | {f"{name}{part}": stage.weight * loss for part, loss in losses.items()}
        return sum(parts.values()), parts

    def sampled(self, matched: jax.Array, keys: jax.Array) -> Samples:
        """Returns random samples of the candidates of each image, whose matches are `matched` `[B, P]`."""
        numbers = self.sampling.rois, self.sampling.positives
        return jax.vmap(lambda *given: draw(*given, *numbers))(matched, keys)

    def stage(
        self,
        model: MaskRCNN,
        maps: Sequence[jax.Array],
        batch: Mapping[str, Any],
        regions: Regions,
        samples: Samples,
        number: int,
        *,
        train: bool,
    ) -> tuple[Metrics, Proposals]:
        """Returns the losses of a stage, and the proposals of the next one: its boxes, without those of objects."""
        stage, masked = self.stages[number], regions.first(self.sampling.positives)
        logits, deltas = model.box_head(model.regions(maps, regions.boxes, SIDE), number, train=train)
        masks = model.mask_head(model.regions(maps, masked.boxes, MASK_SIDE), number)
        count = jnp.maximum(regions.used.sum(), 1)
        if stage.giou:
            boxes = decode(regions.boxes, of_class(deltas, regions.labels), stage.stds)
            overlaps = jnp.where(regions.positive, 1 - giou(boxes, regions.targets), 0)
            box_loss = stage.giou * overlaps.sum() / count
        else:
            box_loss = delta_loss(deltas, regions, stage.stds, count)
        losses = {
            "class_loss": class_loss(logits, regions, count),
            "box_loss": box_loss,
            "mask_loss": mask_loss(masks, masked, batch, jnp.maximum(masked.positive.sum(), 1)),
        }
        logits, deltas = jax.lax.stop_gradient((logits, deltas))
        labels = jnp.where(regions.positive, regions.labels, jnp.argmax(logits[..., :-1], axis=-1))
        refined = decode(regions.boxes, of_class(deltas, labels), stage.stds, batch["size"][:, None])
        slots = batch["labels"].shape[1]
        kept = regions.used & (samples.boxes >= slots) & jnp.isfinite(refined).all(axis=-1)
        return losses, Proposals(jnp.where(kept[..., None], refined, 0), kept.astype(jnp.float32), kept)

    def _proposals(
        self, logits: Any, deltas: Any, sizes: jax.Array, anchors: Anchors, sampling: Sampling | None
    ) -> Proposals:
        number, kept = self.options.candidates, self.options.candidates
        if sampling is not None:
            number, kept = sampling.candidates, sampling.proposals
        return self.rpn.proposals(logits, deltas, sizes, anchors, number, kept)

    def detect(self, model: MaskRCNN, batch: Mapping[str, jax.Array]) -> Detections:
        """Returns the detections of a batch of normalized images with masks, in pixels of the stored images."""
        maps, sizes = model.maps(batch["image"]), batch["size"]
        logits, deltas = model.rpn(maps)
        proposals = self._proposals(logits, deltas, sizes, self.anchors(batch["image"]), None)
        boxes, total = proposals.boxes, 0.0
        for number, stage in enumerate(self.stages):
            logits, deltas = model.box_head(model.regions(maps, boxes, SIDE), number)
            total += logits
            if number < len(self.stages) - 1:
                labels = jnp.argmax(logits[..., :-1], axis=-1)
                boxes = decode(boxes, of_class(deltas, labels), stage.stds, sizes[:, None])
        # As in mmdetection, the logits of the stages are averaged, not the probabilities.
        probabilities = jax.nn.softmax(total / len(self.stages), axis=-1)[..., :-1]
        found = decode(boxes[:, :, None], deltas, self.stages[-1].stds, sizes[:, None, None])
        detections = jax.vmap(self._best)(found, probabilities, proposals.used, batch["scale"])
        return detections._replace(masks=self._masks(model, maps, detections, batch["scale"]))

    def _best(self, boxes: jax.Array, probabilities: jax.Array, used: jax.Array, scale: jax.Array) -> Detections:
        """Returns the detections in an image of boxes `[P, K, 4]` in pixels of the resized image."""
        options = self.options
        return multiclass_nms(
            boxes / scale,
            jnp.where(used[:, None], probabilities, 0),
            score_threshold=options.score,
            iou_threshold=options.iou,
            candidates=options.nms_candidates,
            keep=options.detections,
        )

    def _masks(self, model: MaskRCNN, maps: Sequence[jax.Array], detections: Detections, scale: jax.Array) -> jax.Array:
        """Returns the probabilities of the detections' pixels in the cells of their boxes, `[B, D, h, w]`."""
        x = model.regions(maps, detections.boxes * scale[:, None], MASK_SIDE)
        labels, total = jnp.maximum(detections.labels, 0)[:, :, None, None, None], 0.0
        for number in range(len(self.stages)):
            logits = jnp.take_along_axis(model.mask_head(x, number), labels, axis=-1)[..., 0]
            total += jax.nn.sigmoid(logits)
        return total / len(self.stages)


def _flat(levels: Sequence[jax.Array]) -> jax.Array:
    """Returns the logits of all anchors, `[B, A]`, of maps `[B, h, w, a]`."""
    return jnp.concatenate([level.reshape(len(level), -1) for level in levels], axis=1)


def _flat_deltas(levels: Sequence[jax.Array]) -> jax.Array:
    """Returns the deltas of all anchors, `[B, A, 4]`, of maps `[B, h, w, a, 4]`."""
    return jnp.concatenate([level.reshape(len(level), -1, 4) for level in levels], axis=1)
