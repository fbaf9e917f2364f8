"""Average precision of boxes and masks, computed by hotcoco from the detections of all images like pycocotools does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from focalnet_jax.data.cutouts import encode_cutout
from focalnet_jax.data.host import Batch
from focalnet_jax.data.normalization import normalize
from focalnet_jax.data.palette import class_colours
from focalnet_jax.data.paste import paste_cutout
from focalnet_jax.distributed.activations import on_own_examples
from focalnet_jax.tasks.detection.figures import Drawn, comparison_figure, objects_of
from focalnet_jax.tasks.detection.method import Method
from focalnet_jax.tasks.detection.options import Options
from focalnet_jax.tasks.detection.sources import DetectionSource

_AREAS = ("", "_small", "_medium", "_large")  # suffixes of the metrics, in the order of COCO's ranges of areas
_DRAWN = 0.3  # smallest score of a drawn detection


class AveragePrecision:
    """`Evaluation` of the average precision (AP) of boxes and masks, in percent, as COCO defines it.

    AP is the mean over IoU thresholds from 0.5 to 0.95 and over classes. Classes without objects do not count. Masks
    are evaluated if the detector and the source have masks.

    Args:
      source: images with objects, or None to compile only.
      method: detects objects, and computes losses.
      options: options of inference, of which only the normalization of images is used.
    """

    def __init__(self, source: DetectionSource | None, method: Method, options: Options):
        self.source, self.method, self.options = source, method, options
        self.reset()

    def measure(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> dict[str, Any]:
        """Returns `boxes`, `scores`, `labels` and `masks` of the detections `[B, D, ...]`, and the `loss` `[B]`.

        The boxes are in pixels of the stored images. There are no `masks` if the detector has none, and no `loss` if
        the detector has masks and the examples have none. The result also has `overflow`, `index` and `mask` `[B]`; an
        example whose `mask` is 0 is padding.
        """
        images = padded_with_zeros(normalize(batch["image"], self.options.normalization), batch["size"])
        batch = {**batch, "image": images}
        detections = self.method.detect(model, batch)
        measured = {name: getattr(detections, name) for name in ("boxes", "scores", "labels", "overflow")}
        measured |= {name: batch[name] for name in ("index", "mask")}
        if detections.masks is not None:
            measured["masks"] = detections.masks
        if detections.masks is None or "masks" in batch:
            measured["loss"] = self._losses(model, batch)
        return measured

    def _losses(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the loss of each image, `[B]`, computed as a batch of one image, so that images are independent."""
        graph, variables = nnx.split(model)

        def losses(variables: nnx.State, examples: Mapping[str, jax.Array]) -> jax.Array:
            model = nnx.merge(graph, variables)

            def one(example: Mapping[str, jax.Array]) -> jax.Array:
                single = jax.tree.map(lambda value: value[None], example)
                prepared = self.method.prepare(single, jax.random.key(0))
                return self.method.loss(model, single | prepared, None)[0]

            return jax.lax.map(one, examples)

        names = ("image", "size", "boxes", "labels", "masks", "frames")
        examples = {name: batch[name] for name in names if name in batch}
        return on_own_examples(losses, ("whole", "examples"))(variables, examples)

    def reset(self) -> None:
        """Discards all detections."""
        # By index of the image: boxes, scores and labels of its detections, and their run-length encodings or Nones.
        self._found: dict[int, tuple[Any, ...]] = {}
        self._loss: float | None = 0.0  # sum over images, None without losses
        self._overflow, self._masked = 0, False
        self._precision: np.ndarray | None = None
        self._mask_precision: np.ndarray | None = None

    def add(self, measured: Mapping[str, np.ndarray], batch: Batch | None = None) -> None:
        """Adds the detections of a batch. All processes receive the detections of the global batch.

        Masks are stored as run-length encodings at the size of the stored image.
        """
        self._masked = "masks" in measured
        for row in np.flatnonzero(np.asarray(measured["mask"]) > 0):
            used = measured["labels"][row] >= 0
            found = tuple(np.asarray(measured[name][row])[used] for name in ("boxes", "scores", "labels"))
            index = int(measured["index"][row])
            texts: list[str | None] = [None] * len(found[0])
            if self._masked:
                size = tuple(self.source.sizes[index].tolist())
                pasted = zip(np.asarray(measured["masks"][row])[used], found[0], strict=True)
                texts = [encode_cutout(paste_cutout(mask, box, size), size)["counts"] for mask, box in pasted]
            self._found[index] = (*found, texts)
            known = self._loss is not None and "loss" in measured
            self._loss = self._loss + float(measured["loss"][row]) if known else None
            self._overflow += int(measured["overflow"][row] > 0)

    def records(self) -> list[dict[str, Any]]:
        """Returns all detections in the format of COCO's result files, ordered by image, the highest score first.

        Detections with masks have `segmentation`, a compressed run-length encoding.
        """
        records = []
        for index in sorted(self._found):
            for box, score, label, text in zip(*self._found[index], strict=True):
                x1, y1, x2, y2 = map(float, box)
                record = {
                    "image_id": int(self.source.image_ids[index]),
                    "category_id": int(self.source.category_ids[label]),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(score),
                }
                if text is not None:
                    record["segmentation"] = {"size": self.source.sizes[index].tolist(), "counts": text}
                records.append(record)
        return records

    def result(self) -> dict[str, float | int]:
        """Returns the metrics of boxes and masks, `loss` (mean over images, if it is measured) and `examples`.

        The metrics of boxes are `bbox_ap`, `bbox_ap50`, `bbox_ap75`, and `bbox_ap_small`, `bbox_ap_medium` and
        `bbox_ap_large` by area. With masks, the same metrics with the prefix `segm` follow. As in COCO's tools, a
        metric is -1 if there are no objects in its range of areas. The loss is NaN without examples.
        """
        examples = len(self._found)
        self._precision = self._mask_precision = None
        if examples:
            truth, records = self.source.ground_truth(), self.records()
            self._precision = precision(truth, records)
            if self._masked and self.source.has_masks:
                self._mask_precision = precision(truth, records, "segm")
        metrics = ap_metrics(self._precision)
        if self._mask_precision is not None:
            metrics |= ap_metrics(self._mask_precision, "segm")
        if self._loss is not None:
            metrics["loss"] = self._loss / examples if examples else math.nan
        return metrics | {"examples": examples}

    def details(self) -> dict[str, int]:
        """Returns `images_with_overflow`, the number of images with more candidates than non-maximum suppression uses.

        Candidates are pairs of a box and a class whose score is above the threshold. If there are no such images, the
        result is empty.
        """
        return {"images_with_overflow": self._overflow} if self._overflow else {}

    def table(self) -> list[tuple[str, ...]]:
        """Returns AP, AP50 and AP75 of each class in percent, after a row of titles.

        With masks, the columns of the boxes are followed by the columns of the masks. A cell is empty for a class
        without objects. The table is empty before `result` is called, or without examples.
        """
        if self._precision is None:
            return []
        kinds = {"": self._precision}
        if self._mask_precision is not None:
            kinds = {"box ": self._precision, "mask ": self._mask_precision}
        rows = [("class", *(f"{kind}AP{at}" for kind in kinds for at in ("", "50", "75")))]
        places = np.argsort(np.argsort(self.source.category_ids))  # rank of each class by its id
        for number, name in zip(places, self.source.class_names, strict=True):
            values = [ap_metrics(each[:, :, number : number + 1]) for each in kinds.values()]
            rows.append((name, *(_percent(each[f"bbox_ap{at}"]) for each in values for at in ("", "50", "75"))))
        return rows

    def describe(self, result: Mapping[str, float]) -> str:
        """Describes AP and AP50 of boxes, and of masks if they are measured, and the loss in words."""
        parts = [f"box AP {result['bbox_ap']:.1f}, AP50 {result['bbox_ap50']:.1f}"]
        if "segm_ap" in result:
            parts.append(f"mask AP {result['segm_ap']:.1f}, AP50 {result['segm_ap50']:.1f}")
        if "loss" in result:
            parts.append(f"loss {result['loss']:.4f}")
        return ", ".join(parts)

    def predict(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> dict[str, Any]:
        """Returns the arrays for `draw`: the detections in pixels of the resized images, the images and the objects."""
        images = padded_with_zeros(normalize(batch["image"], self.options.normalization), batch["size"])
        found = self.method.detect(model, {**batch, "image": images, "scale": jnp.ones_like(batch["scale"])})
        kept = ("image", "size", "boxes", "labels", "masks", "frames")
        known = {name: value for name, value in found._asdict().items() if value is not None}
        return {"found": known} | {name: batch[name] for name in kept if name in batch}

    def draw(self, predicted: Any, index: int) -> np.ndarray:
        """Returns a figure `[H, W, 3]` uint8: an image with its detections, next to the image with its true objects."""
        found = {name: np.asarray(value[index]) for name, value in predicted["found"].items()}
        height, width = np.asarray(predicted["size"][index])
        image = np.asarray(predicted["image"][index])[:height, :width]
        names = self.source.class_names
        shown = found["scores"] >= _DRAWN
        boxes, masks = found["boxes"][shown], None
        if "masks" in found:
            pairs = zip(found["masks"][shown], boxes, strict=True)
            masks = [paste_cutout(mask, box, (height, width)) for mask, box in pairs]
        detected = Drawn(boxes, found["labels"][shown], found["scores"][shown], masks)
        return comparison_figure(image, detected, objects_of(predicted, index), names, class_colours(len(names)))


def padded_with_zeros(images: jax.Array, sizes: jax.Array) -> jax.Array:
    """Returns normalized images `[B, H, W, 3]` with the padding set to 0; `sizes` `[B, 2]` are heights and widths."""
    rows, columns = jnp.arange(images.shape[1])[None, :, None], jnp.arange(images.shape[2])[None, None]
    inside = (rows < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])
    return jnp.where(inside[..., None], images, 0.0)


def precision(truth: Mapping[str, Any], records: list[dict[str, Any]], kind: str = "bbox") -> np.ndarray:
    """Returns the precision for each IoU threshold, recall, class and range of areas.

    Args:
      truth: content of a COCO file.
      records: detections in the format of COCO's result files.
      kind: bbox or segm.

    Returns:
      Array `[10, 101, K, 4]`: IoU thresholds 0.5, 0.55, ..., 0.95; recalls 0, 0.01, ..., 1; classes in the order of
      their ids; areas all, small, medium, large. The precision is -1 for a class without objects in a range of areas.
    """
    from hotcoco import COCO, COCOeval  # takes time to import, and only evaluations need it

    ground_truth = COCO(dict(truth))
    if kind == "segm":  # with a box, COCO's tools would take the area of the box instead of that of the mask
        records = [{name: value for name, value in record.items() if name != "bbox"} for record in records]
    evaluation = COCOeval(ground_truth, ground_truth.load_res(records), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[..., -1]


def ap_metrics(precisions: np.ndarray | None, prefix: str = "bbox") -> dict[str, float]:
    """Returns AP, AP50, AP75 and the AP of each range of areas in percent, -1 if there are no objects.

    Args:
      precisions: result of `precision`, or None without images.
      prefix: prefix of the names.
    """

    def mean(values: np.ndarray) -> float:
        known = values[values > -1]
        return 100 * float(known.mean()) if known.size else -1.0

    if precisions is None:
        precisions = np.full((10, 101, 1, len(_AREAS)), -1.0)
    metrics = {f"{prefix}_ap{area}": mean(precisions[..., number]) for number, area in enumerate(_AREAS)}
    return metrics | {f"{prefix}_ap50": mean(precisions[0, ..., 0]), f"{prefix}_ap75": mean(precisions[5, ..., 0])}


def _percent(value: float) -> str:
    return "" if value < 0 else f"{value:.1f}"
