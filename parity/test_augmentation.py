"""Augmentation equals timm's, given the same random draws."""

import random

import jax
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photos
from sklearn.datasets import load_sample_images
from timm.data import auto_augment, create_transform
from timm.data.mixup import Mixup, cutmix_bbox_and_lam

from focalnet_jax.data.decode import decode
from focalnet_jax.data.policies import FILL, OPERATIONS, RandAugment, parse_policy
from focalnet_jax.data.transforms import eval_transform, random_resized_crop_box, train_transform
from focalnet_jax.tasks.classification.mixing import Mixing, mix

HPARAMS = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
PICTURES = [
    Image.fromarray(load_sample_images().images[0]).resize((224, 224)),
    Image.fromarray(photos.coffee()).resize((224, 224)),
    Image.fromarray(photos.astronaut()).resize((97, 61)),
]


class Signs:
    """A random generator whose draws always give the same sign."""

    def __init__(self, negative):
        self.negative = negative

    def random(self):
        """Returns 0 or 1, which policies compare with 0.5 to choose a sign."""
        return 0.0 if self.negative else 1.0


def worst(ours, theirs):
    return np.abs(ours.astype(int) - np.asarray(theirs).astype(int)).max()


@pytest.mark.parametrize("magnitude", [0.0, 3.3, 7.6, 9.0, 10.0])
@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"GaussianBlurRand"}))
def test_every_operation_is_timms_within_a_level(name, magnitude, monkeypatch):
    theirs = auto_augment.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=HPARAMS)
    for negative in (False, True):
        monkeypatch.setattr(auto_augment.random, "random", lambda negative=negative: float(negative))
        for picture in PICTURES:
            ours = OPERATIONS[name](np.asarray(picture), magnitude, Signs(negative))
            assert worst(ours, theirs(picture)) <= 1


@pytest.mark.parametrize("text", ["rand-m9-mstd0.5-inc1", "rand-m7-n3-p0.7", "rand-m10-mstd101-inc1", "rand-m5-mmax12"])
def test_policies_are_read_as_timm_reads_them(text):
    ours, theirs = parse_policy(text), auto_augment.rand_augment_transform(text, dict(HPARAMS))
    assert isinstance(ours, RandAugment)
    assert ours.layers == theirs.num_layers
    assert set(ours.operations) == {op.name for op in theirs.ops}
    for op in theirs.ops:
        assert (ours.magnitude, ours.probability, ours.std) == (op.magnitude, op.prob, op.magnitude_std)
        assert ours.highest == (op.magnitude_max or 10)


def test_crops_of_the_same_box_and_evaluation_are_torchvisions(monkeypatch):
    picture = Image.fromarray(photos.coffee())
    array = np.asarray(picture)
    for seed in range(20):
        box = random_resized_crop_box(*picture.size, (0.08, 1.0), (3 / 4, 4 / 3), np.random.default_rng(seed))
        ours = train_transform(224, (0.08, 1.0), (3 / 4, 4 / 3), 0.0)(array, np.random.default_rng(seed))
        theirs = picture.crop(box).resize((224, 224), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(ours, theirs)
    evaluate = create_transform(224, is_training=False, interpolation="bicubic", crop_pct=0.875, use_prefetcher=True)
    np.testing.assert_array_equal(eval_transform(224)(array), evaluate(picture).numpy().transpose(1, 2, 0))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_pixels_and_labels_are_timms_for_the_same_lambda(kind, monkeypatch):
    draw = np.random.default_rng(0)
    images = draw.normal(size=(8, 33, 47, 3)).astype(np.float32)
    labels = draw.integers(0, 5, 8)
    smoothed = np.full((8, 5), 0.1 / 5, np.float32)
    smoothed[np.arange(8), labels] += 0.9
    mixed, targets = jax.device_get(mix(images, smoothed, Mixing(**{kind: 1.0}, group=8), jax.random.key(4)))
    # Reads lambda and box off the result, and makes timm draw the same values.
    timms = Mixup(mixup_alpha=1.0, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=5)
    if kind == "mixup":
        lam = float(((mixed - images[::-1]) / (images - images[::-1])).mean())
    else:
        pasted = (mixed[0] != images[0]).any(-1)
        rows, columns = np.flatnonzero(pasted.any(1)), np.flatnonzero(pasted.any(0))
        box = (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)
        lam = 1 - pasted.mean()
        monkeypatch.setattr("timm.data.mixup.cutmix_bbox_and_lam", lambda *_, **__: (box, lam))
    monkeypatch.setattr(timms, "_params_per_batch", lambda: (lam, kind == "cutmix"))
    theirs, their_targets = timms(torch.tensor(images).permute(0, 3, 1, 2), torch.tensor(labels))
    # float32, with a lambda that is read off pixels
    np.testing.assert_allclose(mixed, theirs.permute(0, 2, 3, 1).numpy(), atol=2e-5)
    np.testing.assert_allclose(targets, their_targets.numpy(), atol=2e-5)


def test_boxes_are_distributed_as_timms():
    size, count = 40, 3000
    images = np.broadcast_to(np.arange(2, dtype=np.float32)[:, None, None, None], (2, size, size, 1))
    paste = jax.jit(jax.vmap(lambda key: mix(images, np.eye(2, dtype=np.float32), Mixing(cutmix=1.0, group=2), key)[1]))
    ours = 1 - np.asarray(paste(jax.random.split(jax.random.key(0), count)))[:, 0, 0]
    np.random.seed(0)  # timm uses NumPy's global generator  # noqa: NPY002
    random.seed(0)
    theirs = np.array([1 - cutmix_bbox_and_lam((1, size, size), np.random.beta(1.0, 1.0))[1] for _ in range(count)])  # noqa: NPY002
    # limit of the two-sample Kolmogorov-Smirnov distance at a confidence of 1 - 1e-5
    grid = np.linspace(0, 1, 400)
    distance = np.abs(np.searchsorted(np.sort(ours), grid) - np.searchsorted(np.sort(theirs), grid)).max() / count
    assert distance < np.sqrt(-np.log(1e-5 / 2) / count)


def test_files_are_decoded_as_torchvision_reads_them(tmp_path):
    for number, picture in enumerate(PICTURES):
        path = tmp_path / f"{number}.jpg"
        picture.save(path, quality=85)
        np.testing.assert_array_equal(decode(path), Image.open(path).convert("RGB"))
