"""Erasing, mixup and cutmix equal timm's, and depend only on the key and the position in the batch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from focalnet_jax.config import default_config
from focalnet_jax.data.normalization import normalize
from focalnet_jax.errors import UserError
from focalnet_jax.tasks.classification.mixing import Mixing, make_mixing, mix, prepare_batch, random_erase

KEY = jax.random.key(0)
CONFIDENCE = 4  # standard deviations
quick = jax.jit(mix, static_argnums=2)


def marked(batch, size=24, classes=None):
    """Returns images and targets whose values show from which example they come."""
    images = jnp.broadcast_to(jnp.arange(batch, dtype=jnp.float32)[:, None, None, None], (batch, size, size, 3))
    return images, jnp.eye(classes or batch, dtype=jnp.float32)[:batch]


def test_mixup_mixes_an_example_with_its_mirror_in_the_group_and_labels_alike():
    images, targets = marked(16)
    mixed, labels = quick(images, targets, Mixing(mixup=0.8, group=8), KEY)
    for place in range(16):
        group, inside = divmod(place, 8)
        partner = 8 * group + 7 - inside
        lam = float(labels[place, place])
        assert float(labels[place, partner]) == pytest.approx(1 - lam, abs=1e-6)
        # values of images are their positions in the batch, float32
        np.testing.assert_allclose(mixed[place], lam * place + (1 - lam) * partner, atol=1e-5)
    lams = np.diagonal(labels).reshape(2, 8)
    np.testing.assert_allclose(lams, np.broadcast_to(lams[:, :1], lams.shape), atol=1e-6)  # one per group
    assert abs(lams[0, 0] - lams[1, 0]) > 1e-3  # and a different one in the next group


@pytest.mark.parametrize("box", ["timm", "original"])
def test_the_area_of_a_cutmix_box_is_the_weight_of_its_label(box):
    images, targets = marked(64, size=25)
    mixed, labels = quick(images, targets, Mixing(cutmix=1.0, group=2, box=box), KEY)
    sides = set()
    for place in range(64):
        partner = place ^ 1
        pasted = np.asarray(mixed[place, ..., 0] == partner)
        assert (np.asarray(mixed[place]) == np.where(pasted[..., None], partner, place)).all()
        rows, columns = pasted.any(1), pasted.any(0)
        assert (pasted == np.outer(rows, columns)).all()  # a rectangle
        assert (np.diff(np.flatnonzero(rows)) == 1).all()
        assert float(labels[place, place]) == pytest.approx(1 - pasted.mean(), abs=1e-6)
        touches = pasted[0].any() or pasted[-1].any() or pasted[:, 0].any() or pasted[:, -1].any()
        if pasted.any() and not touches:
            assert rows.sum() == columns.sum()  # a square if the border does not cut it
            sides.add(int(rows.sum()))
    # timm's boxes have any size; the original's are 2 * (n // 2) wide, which is even
    assert any(side % 2 for side in sides) == (box == "timm")


def test_probabilities_and_lambdas_are_those_asked_for():
    images, targets = marked(2000, size=8, classes=2000)
    mixing = Mixing(mixup=0.8, cutmix=1.0, group=2, probability=0.75, switch=0.4)
    mixed, labels = jax.device_get(quick(images, targets, mixing, KEY))
    lams, whole = np.diagonal(labels)[::2], mixed[::2, ..., 0]
    cut = np.array([len(np.unique(image)) == 2 for image in whole])
    blend = ~cut & (lams < 1) & np.array([np.ptp(image) == 0 for image in whole])
    # the other groups: not mixed, or a cut so small or large that nothing or everything is pasted
    groups = 1000
    assert abs(blend.sum() - groups * 0.75 * 0.6) < CONFIDENCE * math.sqrt(groups * 0.45 * 0.55)
    assert cut.sum() < groups * 0.3 + CONFIDENCE * math.sqrt(groups * 0.3 * 0.7)
    assert cut.sum() > groups * 0.2
    # Beta(0.8, 0.8) has mean 1/2 and variance 1 / (4 * (2 * 0.8 + 1))
    deviation = math.sqrt(1 / (4 * 2.6) / blend.sum())
    assert lams[blend].mean() == pytest.approx(0.5, abs=CONFIDENCE * deviation)
    assert lams[blend].var() == pytest.approx(1 / (4 * 2.6), rel=0.15)


def test_erasing_fills_a_rectangle_of_the_published_size_with_normal_noise():
    images = jnp.full((1500, 32, 40, 3), 100.0)
    erased = np.asarray(jax.jit(random_erase, static_argnums=1)(images, 0.25, KEY))
    changed = (erased != 100).all(-1)
    hit = changed.any((1, 2))
    assert abs(hit.sum() - 1500 * 0.25) < CONFIDENCE * math.sqrt(1500 * 0.25 * 0.75)
    areas, noise = [], []
    for image, mask in zip(erased[hit], changed[hit], strict=True):
        rows, columns = mask.any(1), mask.any(0)
        assert (mask == np.outer(rows, columns)).all()
        assert rows.sum() < 32
        assert columns.sum() < 40
        areas.append(mask.mean())
        noise.append(image[mask])
    noise = np.concatenate(noise)
    # uniform in (0.02, 1/3), except for a few that do not fit and are drawn again
    assert np.mean(areas) == pytest.approx(
        (0.02 + 1 / 3) / 2, abs=CONFIDENCE * 0.313 / math.sqrt(12 * len(areas)) + 0.01
    )
    assert min(areas) > 0.01
    assert max(areas) < 0.36
    assert noise.mean() == pytest.approx(0, abs=CONFIDENCE / math.sqrt(noise.size))
    assert noise.std() == pytest.approx(1, abs=CONFIDENCE / math.sqrt(2 * noise.size))
    np.testing.assert_array_equal(random_erase(images[:4], 0.0, KEY), images[:4])


def test_the_number_of_devices_changes_nothing():
    mixing = Mixing(smoothing=0.1, erase=0.5, mixup=0.8, cutmix=1.0, group=4)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (16, 20, 20, 3), np.uint8), rng.integers(0, 7, 16)

    def on(devices):
        spread = NamedSharding(Mesh(np.array(jax.devices()[:devices]), "data"), PartitionSpec("data"))
        placed = jax.device_put((images, labels), spread)
        prepare = jax.jit(lambda i, l: prepare_batch(i, l, 7, mixing, KEY), out_shardings=spread)  # noqa: E741
        return jax.device_get(prepare(*placed))

    one = on(1)
    for devices in (2, 8):  # groups of 4 images, on devices with 8 and 2 images
        for alone, spread in zip(one, on(devices), strict=True):
            np.testing.assert_allclose(spread, alone, atol=1e-6)  # different fusions round differently


def test_without_mixing_images_are_normalized_and_labels_smoothed():
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), np.uint8)
    prepared, targets = prepare_batch(images, jnp.array([0, 3, 1, 1]), 5, Mixing(smoothing=0.1), KEY)
    np.testing.assert_array_equal(prepared, normalize(images))
    np.testing.assert_allclose(targets[1], [0.02, 0.02, 0.02, 0.92, 0.02], atol=1e-6)  # 1 - e + e / K, e / K
    np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize(("group", "batch"), [(128, 96), (64, 32), (8, 16)])
def test_groups_divide_the_batch(group, batch):
    assert Mixing(mixup=0.8, group=group).group_size(batch) == min(group, batch)


@pytest.mark.parametrize(("group", "batch", "advice"), [(128, 192, "96"), (8, 12, "6"), (8, 7, "an even batch")])
def test_groups_that_do_not_are_refused_with_one_that_does(group, batch, advice):
    with pytest.raises(UserError, match=advice):
        Mixing(mixup=0.8, group=group).group_size(batch)
    assert Mixing(mixup=0.0, group=group).group_size(batch)  # valid, because nothing is mixed


def test_each_option_is_a_key_of_the_config():
    config = default_config()
    options = dict(label_smoothing=0.2, erase=0.3, mixup=0.4, cutmix=0.5, mix_probability=0.6, mix_switch=0.7)
    config.augment.update(options | dict(mix_group=16, cutmix_box="original"))
    expected = Mixing(0.2, 0.3, 0.4, 0.5, probability=0.6, switch=0.7, group=16, box="original")
    assert make_mixing(config) == expected
