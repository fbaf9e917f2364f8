"""mmdetection's transforms of images and boxes, which make the draws of `focalnet_jax.tasks.detection.augment`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from focalnet_jax.data.instances import Instances
from focalnet_jax.data.preprocessing import Normalization
from focalnet_jax.tasks.detection.augment import Augmentation
from focalnet_jax.tasks.detection.options import PAD
from parity.draws import Call, drawn

import parity.detectors  # noqa: F401, isort: skip - makes mmdetection loadable
from mmdet.datasets.transforms import RandomCrop, RandomFlip, Resize  # isort: skip
from mmdet.models.data_preprocessors import DetDataPreprocessor  # isort: skip
from mmdet.structures import DetDataSample  # isort: skip
from mmdet.structures.bbox import HorizontalBoxes  # isort: skip
from mmcv.transforms import Compose, RandomChoiceResize  # isort: skip
from mmengine.registry import DefaultScope  # isort: skip


class Recorder:
    """The methods of a generator that the augmentation uses; `draws` holds (name, arguments, result) of each call.

    The arguments of `integers` are those of `numpy.random.randint`, which excludes the upper limit.
    """

    def __init__(self, seed: int):
        self.rng, self.draws = np.random.default_rng(seed), list[Call]()

    def random(self) -> float:
        """Returns a number in [0, 1)."""
        return self._kept("random", (), self.rng.random())

    def integers(self, *limits: int, endpoint: bool = False) -> int:
        """Returns an integer, as `numpy.random.Generator.integers` does."""
        arguments = limits
        if endpoint:
            arguments = (*((0,) if len(limits) == 1 else limits[:1]), limits[-1] + 1)
        return self._kept("randint", arguments, int(self.rng.integers(*limits, endpoint=endpoint)))

    def _kept(self, *call: Any) -> Any:
        self.draws.append(call)
        return call[-1]


def augmented(augmentation: Augmentation, image: np.ndarray, instances: Instances, draws: list[Call]) -> dict[str, Any]:
    """Returns mmdetection's results for an image in RGB, with the draws that a `Recorder` holds.

    Args:
      augmentation: options of the transforms.
      image: the image, `[H, W, 3]` uint8.
      instances: its objects.
      draws: flip, crop or not, and those of the transforms after them.
    """
    (_, _, flip), (_, _, crop), *rest = draws
    results = {
        "img": np.ascontiguousarray(image[..., ::-1]),
        "img_shape": image.shape[:2],
        "gt_bboxes": HorizontalBoxes(torch.from_numpy(instances.boxes.astype(np.float32))),
        "gt_bboxes_labels": instances.labels.astype(np.int64),
        "gt_ignore_flags": instances.crowd.copy(),
    }
    chances = [augmentation.flip, 1 - augmentation.flip]
    direction = "horizontal" if flip < augmentation.flip else None
    with drawn(("choice", (["horizontal", None], chances), direction)):
        results = RandomFlip(augmentation.flip)(results)
    with drawn(*rest):
        return _pipelines(augmentation)[crop < augmentation.crop](results)


def _pipelines(augmentation: Augmentation) -> tuple[Compose, Compose]:
    """Returns the two halves of the recipe, without and with a crop."""

    def resize(short_sides: tuple[int, ...]) -> RandomChoiceResize:
        scales = [(side, augmentation.long_side) for side in short_sides]
        with DefaultScope.overwrite_default_scope("mmdet"):  # other tests make mmsegmentation the default
            return RandomChoiceResize(scales, resize_type="Resize", keep_ratio=True)

    crop = RandomCrop(augmentation.crop_range, crop_type="absolute_range", allow_negative_crop=True)
    last = resize(augmentation.short_sides)
    return Compose([last]), Compose([resize(augmentation.crop_short_sides), crop, last])


def fitted(image: np.ndarray, box: tuple[int, int]) -> dict[str, Any]:
    """Returns the results of mmdetection's Resize in evaluations, for an image in RGB."""
    return Resize(scale=box, keep_ratio=True)({"img": np.ascontiguousarray(image[..., ::-1])})


def normalized(images: list[np.ndarray], how: Normalization) -> torch.Tensor:
    """Returns a batch `[B, 3, H, W]` of images in BGR from mmdetection's preprocessor, padded to a multiple of 32."""
    mean, std = ([255 * float(value) for value in each] for each in (how.mean, how.std))
    process = DetDataPreprocessor(mean, std, bgr_to_rgb=True, pad_size_divisor=PAD)
    inputs = [torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1) for image in images]
    samples = [DetDataSample(metainfo={"img_shape": image.shape[:2]}) for image in images]
    return process({"inputs": inputs, "data_samples": samples}, training=True)["inputs"]
