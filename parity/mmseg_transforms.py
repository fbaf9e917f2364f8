"""mmsegmentation's training transforms, which make the draws of `focalnet_jax.tasks.segmentation.augment`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import cv2
import numpy as np

from focalnet_jax.data.photometric import Distortion, Photometric
from focalnet_jax.tasks.segmentation.augment import Augmentation, Draws
from parity import mmcv_stub

mmcv_stub.install()

from mmcv.transforms import RandomFlip, RandomResize  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmseg.datasets.transforms import PhotoMetricDistortion, RandomCrop  # noqa: E402

Call = tuple[str, tuple, object]  # name in numpy.random, arguments, result

cv2.setNumThreads(1)
init_default_scope("mmseg")


def photos() -> list[np.ndarray]:
    """Returns three photos `[H, W, 3]` uint8 of scikit-learn and scikit-image, of different shapes."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    return [load_sample_images().images[0], data.astronaut()[:, 60:401], data.coffee()[:301]]


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


@contextmanager
def drawn(*calls: Call, all_of_them: bool = True) -> Iterator[None]:
    """Replaces functions of `numpy.random`, which must be called with these arguments, and gives their results."""
    left = list(calls)

    def replacement(name: str):
        def draw(*arguments, p=None):
            expected, wanted, result = left.pop(0)
            got = arguments if p is None else (*arguments, p)
            assert (name, got) == (expected, wanted), f"{name}{got} instead of {expected}{wanted}"
            return result

        return draw

    names = ("random_sample", "randint", "uniform", "choice")
    with mock.patch.multiple(np.random, **{name: replacement(name) for name in names}):
        yield
    assert not (left and all_of_them), f"{len(left)} draws were not made"
