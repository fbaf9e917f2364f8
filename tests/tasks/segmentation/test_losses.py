"""Losses of pixels equal mmsegmentation's. `parity/test_segmentation_losses.py` computes the expected numbers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from focalnet_jax.data.masks import IGNORED
from focalnet_jax.errors import UserError
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.tasks.segmentation.kind import make_task
from focalnet_jax.tasks.segmentation.losses import PixelLoss, hits

WEIGHTS = (1.0, 0.25, 3.0)
# Sums of 160 losses in float32, in another order than PyTorch's.
RTOL = 2e-6
GOLDEN = [
    (PixelLoss(), 1.7745758295059204),
    (PixelLoss("valid"), 2.1840932369232178),
    (PixelLoss(kept=20), 1.1842607259750366),
    (PixelLoss("valid", kept=20), 1.4575517177581787),
    (PixelLoss(kept=20, threshold=0.3), 1.6023013591766357),
    (PixelLoss("valid", kept=20, threshold=0.9), 2.181175708770752),
    (PixelLoss(kept=3, threshold=0.01), 0.6920501589775085),
    (PixelLoss(kept=1000), 1.7745758295059204),
    (PixelLoss(kept=1000, threshold=0.2), 1.7745487689971924),
]
WEIGHTED = [
    (PixelLoss("weighted", WEIGHTS), 1.641281247138977),
    (PixelLoss("weighted", WEIGHTS, kept=20), 1.1349432468414307),
    (PixelLoss("weighted", WEIGHTS, kept=20, threshold=0.3), 1.4646954536437988),
]
SUMS = [
    (PixelLoss(class_weights=WEIGHTS), 341.3821105957031),
    (PixelLoss(class_weights=WEIGHTS, kept=20), 260.469482421875),
    (PixelLoss(class_weights=WEIGHTS, kept=20, threshold=0.3), 308.720947265625),
]


def drawn(labelled=False):
    """Returns logits `[2, 4, 5, 3]` and a mask `[2, 8, 10]` of three classes, with or without ignored pixels."""
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 3, (2, 4, 5, 3)).astype(np.float32)
    mask = draw.integers(0, 3, (2, 8, 10)).astype(np.uint8)
    mask[0, 2:5] = 0 if labelled else IGNORED
    return jnp.asarray(logits), jnp.asarray(mask)


def value(loss, logits, mask):
    return loss.sums(logits, mask).sum() / loss.divisor(mask)


@pytest.mark.parametrize(("loss", "expected"), GOLDEN)
def test_the_divisor_and_the_hard_pixels_are_mmsegmentations(loss, expected):
    assert value(loss, *drawn()) == pytest.approx(expected, rel=RTOL)


@pytest.mark.parametrize(("loss", "expected"), WEIGHTED)
def test_weights_of_classes_are_mmsegmentations_where_all_pixels_have_classes(loss, expected):
    assert value(loss, *drawn(labelled=True)) == pytest.approx(expected, rel=RTOL)


@pytest.mark.parametrize(("loss", "expected"), SUMS)
def test_each_divisor_divides_the_same_sum(loss, expected):
    # mmsegmentation 1.2.2 computes these sums, but not their means with weights and ignored pixels.
    logits, mask = drawn()
    known = np.asarray(mask) != IGNORED
    weights = np.array(WEIGHTS)[np.where(known, mask, 0)]
    divisors = {"all": mask.size, "valid": known.sum(), "weighted": weights[known].sum()}
    for average, divisor in divisors.items():
        assert value(replace(loss, average=average), logits, mask) == pytest.approx(expected / divisor, rel=RTOL)


@pytest.mark.parametrize("average", ["all", "valid", "weighted"])
@pytest.mark.parametrize("options", [{}, {"class_weights": WEIGHTS}, {"kept": 5}, {"kept": 5, "threshold": 0.7}])
@pytest.mark.fault(57)
def test_ignored_pixels_have_no_loss_and_no_gradient(average, options):
    loss = PixelLoss(average, **options)
    logits, mask = drawn()
    for ignored in (mask.at[0].set(IGNORED), jnp.full_like(mask, IGNORED)):
        found, gradient = jax.value_and_grad(lambda logits, mask=ignored: value(loss, logits, mask))(logits)
        assert jnp.isfinite(found)
        assert jnp.isfinite(gradient).all()
        assert not gradient[0].any()
        assert bool(gradient.any()) == bool((ignored != IGNORED).any()) == bool(found > 0)


def test_the_accuracy_leaves_out_ignored_pixels():
    logits, mask = drawn()
    predicted = np.argmax(logits, axis=-1)
    labels = np.asarray(mask)[:, ::2, ::2]  # at the resolution of the logits
    expected = [(predicted[i] == labels[i])[labels[i] != IGNORED].mean() for i in range(2)]
    np.testing.assert_allclose(hits(logits, mask), expected, rtol=1e-6)
    assert hits(logits, jnp.full_like(mask, IGNORED)).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["class_weights=(1.0,2.0)"], "head.class_weights has 2 numbers, but there are 11 classes: set one"),
        (["ohem_threshold=0.7"], "head.ohem_threshold=0.7 is not used with head.ohem_kept=0: set head.ohem_kept"),
        (["class_weights=(1.0,-2.0)"], "head.class_weights=.*expected numbers of at least 0, one per class"),
        (["class_weights=(0.0,0.0)"], "head.class_weights=.*expected numbers of at least 0, one per class"),
        (["ohem_kept=-1"], "head.ohem_kept=-1: expected 0 or a positive"),
        (["ohem_kept=9", "ohem_threshold=7.0"], r"head.ohem_threshold=7.0: expected a number in \[0, 1\]"),
        (["average=mean"], "head.average=mean: expected all, valid or weighted"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(flags, message):
    with pytest.raises(UserError, match=message):
        make_task(load_config("configs/upernet_ade20k.py:smoke", [f"--config.head.{flag}" for flag in flags]))


def test_the_settings_of_the_head_are_those_of_the_loss():
    weights = ",".join(["1.0"] * 10 + ["3.0"])
    flags = [f"class_weights=({weights})", "ohem_kept=9", "ohem_threshold=0.7", "average=weighted"]
    config = load_config("configs/upernet_ade20k.py:smoke", [f"--config.head.{flag}" for flag in flags])
    assert make_task(config, evaluated=False).pixel_loss == PixelLoss("weighted", (*[1.0] * 10, 3.0), 9, 0.7)
