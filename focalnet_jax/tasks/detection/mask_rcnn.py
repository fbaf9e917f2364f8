"""Losses and detections of Mask R-CNN and Cascade Mask R-CNN, computed like mmdetection's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from focalnet_jax.distributed.activations import map_examples
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
      thresholds: IoU thresholds for matching RoIs to objects.
      stds: standard deviations of the deltas, see `encode`.
      weight: weight of the stage's losses.
      giou: weight of the GIoU loss of the decoded boxes; 0 for the L1 loss of the deltas instead.
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
"""Stages of the original's configurations of Mask R-CNN and Cascade Mask R-CNN."""


@dataclass(frozen=True)
class Sampling:
    """Numbers of boxes in training.

    Attributes:
      candidates: largest number of boxes per level before the non-maximum suppression of proposals.
      proposals: largest number of proposals per image after the non-maximum suppression.
      rois: number of sampled RoIs per image.
      positives: largest number of sampled RoIs per image that are matched to an object.
    """

    candidates: int = 2000
    proposals: int = 1000
    rois: int = 512
    positives: int = 128


@dataclass(frozen=True)
class Pass:
    """Inputs and outputs of the box head of one stage for a batch.

    Attributes:
      proposals: proposals; the RoIs are sampled from the proposals and the ground-truth boxes.
      regions: the sampled RoIs.
      logits: logits of the RoIs, `[B, R, K + 1]`.
      deltas: deltas of the RoIs, `[B, R, K, 4]`.
    """

    proposals: Proposals
    regions: Regions
    logits: jax.Array
    deltas: jax.Array


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
        """Returns the sampled anchors of a global batch and the weights of their losses, see `RPN.targets`."""
        return self.rpn.targets(batch, self.anchors(batch["image"]), key)

    def loss(self, model: MaskRCNN, batch: Mapping[str, Any], keys: jax.Array | None) -> tuple[jax.Array, Metrics]:
        """Returns the mean loss of prepared images, and its parts: the losses of the RPN, and of each stage.

        The losses of each stage are divided by numbers of RoIs: by the batch's entry `counts`, which is the result of
        the method `counts` for the global batch. Without this entry, the numbers of the given images are used.
        """
        maps = model.maps(batch["image"], keys)
        outputs = model.rpn(maps)
        parts = self.rpn_losses(outputs, batch)
        passes = self.passes(model, maps, batch, self._training_proposals(outputs, batch), keys)
        counts = batch.get("counts", _counts(passes))
        return self.stage_losses(model, maps, batch, passes, counts, parts)

    def counts(self, model: MaskRCNN, batch: Mapping[str, Any], keys: jax.Array) -> jax.Array:
        """Returns the mean number of RoIs per image, and of RoIs with an object, for each stage, `[stages, 2]`."""
        maps = model.maps(batch["image"], keys)
        proposals = self._training_proposals(model.rpn(maps), batch)
        return _counts(self.passes(model, maps, batch, proposals, keys))

    def rpn_losses(self, outputs: tuple[Any, Any], batch: Mapping[str, Any]) -> Metrics:
        """Returns the losses of the region proposal network for `outputs`, the logits and deltas of each level."""
        logits, deltas = outputs
        anchors = self.anchors(batch["image"])
        classes, boxes = self.rpn.losses(_flat(logits), _flat_deltas(deltas), batch, anchors)
        return {"rpn_class_loss": classes, "rpn_box_loss": boxes}

    def passes(
        self,
        model: MaskRCNN,
        maps: Sequence[jax.Array],
        batch: Mapping[str, Any],
        proposals: Proposals,
        keys: jax.Array | None,
    ) -> list[Pass]:
        """Samples the RoIs of each stage, and returns the RoIs with the outputs of the box head, one `Pass` per stage.

        Args:
          model: the detector.
          maps: feature maps of the neck.
          batch: `size`, `boxes` and `labels`.
          proposals: proposals of the images.
          keys: PRNG keys `[B]` of the images. If None, the box head is in evaluation mode and the samples are fixed.
        """
        train, found = keys is not None, []
        draws = sampling_keys(keys, len(batch["size"]))
        for number, stage in enumerate(self.stages):
            boxes, matched = candidates(batch, proposals, stage.thresholds)
            samples = self._sampled(matched, jax.vmap(jax.random.fold_in, (0, None))(draws, number))
            regions = regions_of(boxes, samples, batch, self.num_classes)
            cut = model.regions(maps, regions.boxes, SIDE)
            logits, deltas = model.box_head(cut, number, train=train, used=regions.used)
            found.append(Pass(proposals, regions, logits, deltas))
            proposals = self._refined(stage, found[-1], samples, batch)
        return found

    def _sampled(self, matched: jax.Array, keys: jax.Array) -> Samples:
        numbers = self.sampling.rois, self.sampling.positives
        return map_examples(lambda *given: draw(*given, *numbers))(matched, keys)

    def _refined(self, stage: Stage, done: Pass, samples: Samples, batch: Mapping[str, Any]) -> Proposals:
        """Returns the proposals of the next stage: the refined RoIs, except ground-truth boxes and non-finite boxes."""
        logits, deltas = jax.lax.stop_gradient((done.logits, done.deltas))
        regions = done.regions
        labels = jnp.where(regions.positive, regions.labels, jnp.argmax(logits[..., :-1], axis=-1))
        boxes = decode(regions.boxes, of_class(deltas, labels), stage.stds, batch["size"][:, None])
        kept = regions.used & (samples.boxes >= batch["labels"].shape[1]) & jnp.isfinite(boxes).all(axis=-1)
        return Proposals(jnp.where(kept[..., None], boxes, 0), kept.astype(jnp.float32), kept)

    def stage_losses(
        self,
        model: MaskRCNN,
        maps: Sequence[jax.Array],
        batch: Mapping[str, Any],
        passes: Sequence[Pass],
        counts: jax.Array,
        parts: Metrics,
    ) -> tuple[jax.Array, Metrics]:
        """Returns the sum of `parts` and of the losses of all stages, and all parts.

        Args:
          model: the detector.
          maps: feature maps of the neck.
          batch: `size`, `masks` and `frames`.
          passes: RoIs and outputs of all stages.
          counts: mean numbers per image of RoIs and of RoIs with an object in each stage, `[stages, 2]`.
          parts: losses of the RPN.
        """
        for number, (stage, done) in enumerate(zip(self.stages, passes, strict=True)):
            masked = done.regions.first(self.sampling.positives)
            masks = model.mask_head(model.regions(maps, masked.boxes, MASK_SIDE), number)
            # A batch without RoIs counts as one RoI, so that no loss is divided by 0.
            count, positives = jnp.maximum(counts[number] * len(masks), 1)
            losses = {
                "class_loss": class_loss(done.logits, done.regions, count),
                "box_loss": self._box_loss(stage, done, count),
                "mask_loss": mask_loss(masks, masked, batch, positives),
            }
            name = f"stage{number + 1}_" if len(self.stages) > 1 else ""
            parts = parts | {f"{name}{part}": stage.weight * loss for part, loss in losses.items()}
        return sum(parts.values()), parts

    def _box_loss(self, stage: Stage, done: Pass, count: jax.Array) -> jax.Array:
        regions = done.regions
        if not stage.giou:
            return delta_loss(done.deltas, regions, stage.stds, count)
        boxes = decode(regions.boxes, of_class(done.deltas, regions.labels), stage.stds)
        return stage.giou * jnp.where(regions.positive, 1 - giou(boxes, regions.targets), 0).sum() / count

    def _training_proposals(self, outputs: tuple[Any, Any], batch: Mapping[str, Any]) -> Proposals:
        sampling = self.sampling
        anchors = self.anchors(batch["image"])
        return self.rpn.proposals(*outputs, batch["size"], anchors, sampling.candidates, sampling.proposals)

    def detect(self, model: MaskRCNN, batch: Mapping[str, jax.Array]) -> Detections:
        """Returns the detections, with masks, in a batch of normalized images; boxes in pixels of the stored images."""
        maps, sizes = model.maps(batch["image"]), batch["size"]
        logits, deltas = model.rpn(maps)
        number = self.options.candidates
        proposals = self.rpn.proposals(logits, deltas, sizes, self.anchors(batch["image"]), number, number, flat=False)
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
        detections = map_examples(self._best)(found, probabilities, proposals.used, batch["scale"])
        return detections._replace(masks=self._masks(model, maps, detections, batch["scale"]))

    def _best(self, boxes: jax.Array, probabilities: jax.Array, used: jax.Array, scale: jax.Array) -> Detections:
        """Returns the detections in an image. `boxes` `[P, K, 4]` of P proposals are in pixels of the resized image."""
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
        """Returns the masks of the detections, `[B, D, h, w]`, see `Detections.masks`."""
        x = model.regions(maps, detections.boxes * scale[:, None], MASK_SIDE)
        labels, total = jnp.maximum(detections.labels, 0)[:, :, None, None, None], 0.0
        for number in range(len(self.stages)):
            logits = jnp.take_along_axis(model.mask_head(x, number), labels, axis=-1)[..., 0]
            total += jax.nn.sigmoid(logits)
        return total / len(self.stages)


def sampling_keys(keys: jax.Array | None, count: int) -> jax.Array:
    """Returns PRNG keys `[B]` for sampling the RoIs of B images: derived from `keys`, or fixed if `keys` is None."""
    if keys is None:
        return jax.random.split(jax.random.key(0), count)
    return jax.vmap(jax.random.fold_in, (0, None))(keys, 1)


def _counts(passes: Sequence[Pass]) -> jax.Array:
    """Returns the mean number of RoIs per image, and of RoIs with an object, for each stage, `[stages, 2]`."""
    numbers = [
        jnp.stack(
            [jnp.mean(kind.sum(axis=1).astype(jnp.float32)) for kind in (done.regions.used, done.regions.positive)]
        )
        for done in passes
    ]
    return jnp.stack(numbers)


def _flat(levels: Sequence[jax.Array]) -> jax.Array:
    """Concatenates maps `[B, h, w, a]` of all levels to the logits of all anchors, `[B, A]`."""
    return jnp.concatenate([level.reshape(len(level), -1) for level in levels], axis=1)


def _flat_deltas(levels: Sequence[jax.Array]) -> jax.Array:
    """Concatenates maps `[B, h, w, a, 4]` of all levels to the deltas of all anchors, `[B, A, 4]`."""
    return jnp.concatenate([level.reshape(len(level), -1, 4) for level in levels], axis=1)
