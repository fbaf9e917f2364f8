"""Predictions for whole images, by windows, at several scales and mirrored, and mIoU equal mmsegmentation's.

The loop over scales and flips is that of mmsegmentation 0.x, whose scales are relative to the box; 1.x's are relative
to the image. Everything in it is computed by mmsegmentation 1.2.2.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import mmcv
import numpy as np
import pytest
import torch

from focalnet_jax.data.masks import MaskCoding
from focalnet_jax.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.tasks.segmentation.augment import Augmentation
from focalnet_jax.tasks.segmentation.host import SegmentationHost
from focalnet_jax.tasks.segmentation.inference import predict_classes
from focalnet_jax.tasks.segmentation.overlap import Overlap
from focalnet_jax.tasks.segmentation.shapes import Inference
from parity.draws import photos
from parity.mmseg_transforms import mask_of  # before mmseg, which it makes loadable
from parity.upernet import build, ours_from

from mmengine.config import ConfigDict  # isort: skip
from mmseg.evaluation.metrics import IoUMetric  # isort: skip
from mmseg.models.utils import resize  # isort: skip

CLASSES = 7
# Logits of UPerNet differ by 1e-5 at most (test_upernet.py), so classes with closer probabilities may change places.
TIE = 1e-5
MULTI = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
SMALL = Inference(box=(512, 128), crop=(64, 80), stride=(43, 50), multiple=1)
TINY = FocalNetConfig(
    embed_dim=8, depths=(1, 1, 1, 1), focal_levels=(2, 2, 2, 2), focal_windows=(3, 3, 3, 3), drop_path_rate=0.0
)


class Patches:
    """A model whose logits are products of each patch of 4x4 pixels and random weights, in both libraries."""

    def __init__(self):
        self.kernel = np.random.default_rng(0).normal(size=(CLASSES, 3, 4, 4)).astype(np.float32)

    def __call__(self, images):
        """Returns logits `[B, h, w, K]`."""
        height, width = (-side % 4 for side in images.shape[1:3])
        padded = jnp.pad(images, ((0, 0), (0, height), (0, width), (0, 0)))
        dimensions = ("NHWC", "OIHW", "NHWC")
        return jax.lax.conv_general_dilated(padded, self.kernel, (4, 4), "VALID", dimension_numbers=dimensions)

    def theirs(self, images, metas):
        """Replaces `EncoderDecoder.encode_decode`."""
        padded = torch.nn.functional.pad(images, (0, -images.shape[3] % 4, 0, -images.shape[2] % 4))
        logits = torch.nn.functional.conv2d(padded, torch.from_numpy(self.kernel), stride=4)
        return resize(logits, size=images.shape[2:], mode="bilinear", align_corners=False)


@pytest.fixture(scope="module")
def models():
    """Pairs of mmsegmentation's model and ours, by name."""
    heads = dict(channels=16, auxiliary_channels=16)
    upernet, replaced, patches = build(TINY, CLASSES, **heads), build(TINY, CLASSES, **heads), Patches()
    replaced.encode_decode = patches.theirs
    return {"upernet": (upernet, ours_from(upernet, TINY, CLASSES, **heads)), "random": (replaced, patches)}


def mmseg_scores(model, photo, options):
    """Returns the probabilities `[K, H, W]` of mmsegmentation 0.x's `aug_test`."""
    model.test_cfg = ConfigDict(mode=options.mode, crop_size=options.crop, stride=options.stride)
    mean, std = (np.float32([255 * value for value in values]) for values in (IMAGENET_MEAN, IMAGENET_STD))
    views = []
    for scale in options.scales:
        box = tuple(int(side * scale) for side in options.box)
        small = (mmcv.imrescale(photo, box).astype(np.float32) - mean) / std
        for mirrored in (False, True)[: 1 + options.flip]:
            image = torch.from_numpy((small[:, ::-1] if mirrored else small).transpose(2, 0, 1).copy())[None]
            with torch.no_grad():
                logits = model.inference(image, [dict(ori_shape=photo.shape[:2], img_shape=image.shape[2:])])
                logits = resize(logits, size=photo.shape[:2], mode="bilinear", align_corners=False)
            probabilities = logits.softmax(dim=1)
            views.append(probabilities.flip(dims=(3,)) if mirrored else probabilities)
    total = views[0]
    for view in views[1:]:
        total = total + view
    return (total / len(views))[0]


def examples(kind):
    """Returns images of different shapes and their masks."""
    if kind == "upernet":
        return [(photo, np.where(mask_of(photo) > 6, 255, mask_of(photo))) for photo in photos()]
    rng = np.random.default_rng(1)
    shapes = [(97, 130), (200, 90)]
    pixels = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    return [(image, rng.choice([*range(CLASSES - 1), 255], image.shape[:2]).astype(np.uint8)) for image in pixels]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("random", SMALL),
        ("random", replace(SMALL, mode="slide")),
        ("random", replace(SMALL, scales=MULTI, flip=True)),
        ("random", replace(SMALL, scales=MULTI, flip=True, mode="slide")),
        ("random", replace(SMALL, box=(2048, 512), scales=MULTI, flip=True)),
        ("random", replace(SMALL, box=(2048, 512), crop=(512, 512), stride=(341, 341), mode="slide")),
        ("upernet", SMALL),
        ("upernet", replace(SMALL, mode="slide")),
        ("upernet", replace(SMALL, scales=(0.5, 1.25), flip=True)),
    ],
)
def test_classes_and_miou_are_mmsegs(models, kind, options):
    theirs, ours = models[kind]
    host = SegmentationHost(Augmentation(), MaskCoding(CLASSES), options)
    overlap, areas, different, pixels = Overlap(None, CLASSES, options), [], 0, 0

    @jax.jit
    def measured(batch):
        return overlap.measure(ours, batch), predict_classes(ours, batch, options)

    for photo, mask in examples(kind):
        batch = {name: value[None] for name, value in host.eval_example((photo, mask)).items()}
        sums, predicted = jax.device_get(measured(batch | {"mask": np.ones(1, np.float32)}))
        overlap.add(sums)
        probabilities = mmseg_scores(theirs, photo, options)
        expected = probabilities.argmax(dim=0)
        height, width = mask.shape
        found = torch.from_numpy(predicted[0, :height, :width].astype(np.int64))
        best = probabilities.topk(2, dim=0).values
        ties = (best[0] - best[1] < TIE) & (kind == "upernet")
        different += (found != expected).sum().item()
        pixels += mask.size
        assert (found == expected)[~ties].all(), f"{(found != expected)[~ties].sum()} of {mask.size} pixels"
        expected = torch.where(ties, found, expected)
        areas.append(IoUMetric.intersect_and_union(expected, torch.from_numpy(mask), CLASSES, 255))
    metrics = IoUMetric.total_area_to_metrics(*(sum(each) for each in zip(*areas, strict=True)))
    assert different <= 1e-5 * pixels, f"{different} of {pixels} pixels"
    result = overlap.result()
    # PyTorch divides sums of pixels in float32.
    assert result["miou"] / 100 == pytest.approx(np.nanmean(metrics["IoU"]), abs=1e-6)
    assert result["macc"] / 100 == pytest.approx(np.nanmean(metrics["Acc"]), abs=1e-6)
    assert result["aacc"] / 100 == pytest.approx(metrics["aAcc"], abs=1e-6)
    np.testing.assert_allclose(overlap.class_ious() / 100, metrics["IoU"], rtol=0, atol=1e-6)
