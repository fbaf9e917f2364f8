"""mmsegmentation's training transforms, which make the draws of `focalnet_jax.tasks.segmentation.augment`."""

from __future__ import annotations

import cv2
import numpy as np

from focalnet_jax.data.photometric import Distortion, Photometric
from focalnet_jax.tasks.segmentation.augment import Augmentation, Draws
from parity import mmcv_stub
from parity.draws import Call, drawn

mmcv_stub.install()

from mmcv.transforms import RandomFlip, RandomResize  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmseg.datasets.transforms import PhotoMetricDistortion, RandomCrop  # noqa: E402

cv2.setNumThreads(1)
init_default_scope("mmseg")


def mask_of(photo: np.ndarray) -> np.ndarray:
    """Returns a mask `[H, W]` uint8 with regions of brightness of a photo; 255 marks its lower left corner."""
    mask = cv2.blur(photo.mean(-1).astype(np.uint8), (9, 9)) // 64
    mask[-photo.shape[0] // 5 :, : photo.shape[1] // 4] = 255
    return mask


def resized(augmentation: Augmentation, image: np.ndarray, mask: np.ndarray, unit: float) -> dict:
    """Returns the results of RandomResize, with an image in BGR; `unit` in [0, 1) is its random number."""
    transform = RandomResize(
        scale=augmentation.box, ratio_range=augmentation.ratio, keep_ratio=True, resize_type="Resize"
    )
    results = {"img": np.ascontiguousarray(image[..., ::-1]), "gt_seg_map": mask, "seg_fields": ["gt_seg_map"]}
    with drawn(("random_sample", (), unit)):
        return transform(results)


def augmented(augmentation: Augmentation, image: np.ndarray, mask: np.ndarray, unit: float, draws: Draws) -> dict:
    """Returns the results of all transforms with the choices of `draws`."""
    results = resized(augmentation, image, mask, unit)
    margins = [
        max(large - small, 0) + 1 for large, small in zip(results["img"].shape[:2], augmentation.size, strict=True)
    ]
    corners = [
        ("randint", (0, margin), at) for corner in draws.corners for margin, at in zip(margins, corner, strict=True)
    ]
    with drawn(*corners, all_of_them=False):
        results = RandomCrop(augmentation.size, augmentation.cat_max_ratio)(results)
    direction = "horizontal" if draws.mirrored else None
    chances = [augmentation.flip, 1 - augmentation.flip]
    with drawn(("choice", (["horizontal", None], chances), direction)):
        results = RandomFlip(augmentation.flip)(results)
    if augmentation.photometric:
        results = distorted(augmentation.photometric, results, draws.distortion)
    return results


def distorted(photometric: Photometric, results: dict, choices: Distortion) -> dict:
    """Returns the results of PhotoMetricDistortion with the given choices."""
    transform = PhotoMetricDistortion(
        photometric.brightness, photometric.contrast, photometric.saturation, photometric.hue
    )
    beta, contrast = photometric.brightness, _coin(choices.contrast, "uniform", photometric.contrast)
    first = choices.contrast_first
    calls = [
        *_coin(choices.brightness, "uniform", (-beta, beta)),
        ("randint", (2,), int(first)),
        *(contrast if first else ()),
        *_coin(choices.saturation, "uniform", photometric.saturation),
        *_coin(choices.hue, "randint", (-photometric.hue, photometric.hue)),
        *(() if first else contrast),
    ]
    with drawn(*calls):
        return transform(results)


def _coin(value: float | None, name: str, arguments: tuple) -> list[Call]:
    if value is None:
        return [("randint", (2,), 0)]
    return [("randint", (2,), 1), (name, arguments, value)]
