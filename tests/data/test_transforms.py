"""Decoded images have Pillow's pixels; crops have the distribution and pixels of the published recipes."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from focalnet_jax.data.decode import decode
from focalnet_jax.data.pixels import resize
from focalnet_jax.data.transforms import eval_transform, random_resized_crop_box, train_transform
from focalnet_jax.errors import UserError


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(load_sample_image("china.jpg"))  # 640x427


@pytest.mark.parametrize("options", [dict(quality=75), dict(quality=95, subsampling=0), dict(progressive=True)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_have_pillows_pixels(photo, mode, options):
    encoded = io.BytesIO()
    photo.convert(mode).save(encoded, "JPEG", **options)
    expected = Image.open(io.BytesIO(encoded.getvalue())).convert("RGB")
    np.testing.assert_array_equal(decode(encoded.getvalue()), expected)


def test_evaluation_resizes_the_shorter_side_and_crops_the_centre(photo):
    expected = resized(photo, (int(256 * 640 / 427), 256))
    left, top = round((expected.width - 224) / 2), 16
    np.testing.assert_array_equal(
        eval_transform(224)(np.asarray(photo)), expected.crop((left, top, left + 224, top + 224))
    )
    assert eval_transform(384)(np.asarray(photo)).shape == (384, 384, 3)
    with pytest.raises(UserError, match="eval_resize"):
        eval_transform(224, 200)


def resized(image, size):
    """Resizes rows, then columns, like Pillow up to version 12."""
    bicubic = Image.Resampling.BICUBIC
    return image.resize((size[0], image.height), bicubic).resize(size, bicubic)


@pytest.mark.parametrize("size", [7, 64, 224])
def test_crops_have_pillows_pixels_mirrored_or_not(photo, size):
    pixels, rng = np.asarray(photo), np.random.default_rng(0)
    for _ in range(20):
        left, right = np.sort(rng.choice(photo.width + 1, 2, replace=False))
        top, bottom = np.sort(rng.choice(photo.height + 1, 2, replace=False))
        box = (int(left), int(top), int(right), int(bottom))
        expected = np.asarray(resized(photo.crop(box), (size, size)))
        np.testing.assert_array_equal(resize(pixels, box, (size, size), (0, 0, size, size)), expected)
        mirrored = resize(pixels, box, (size, size), (0, 0, size, size), mirrored=True)
        np.testing.assert_array_equal(mirrored, expected[:, ::-1])


def test_crops_have_uniform_area_and_log_uniform_ratio_inside_the_picture():
    rng = np.random.default_rng(0)
    boxes = np.array([random_resized_crop_box(500, 400, (0.08, 0.5), (3 / 4, 4 / 3), rng) for _ in range(4000)])
    left, top, right, bottom = boxes.T
    assert min(left.min(), top.min()) == 0
    assert right.max() <= 500
    assert bottom.max() <= 400
    area = (right - left) * (bottom - top) / (500 * 400)
    ratio = np.log((right - left) / (bottom - top))
    # means of uniform variables over 4000 draws: four standard deviations of the mean, and one pixel for rounding
    assert area.mean() == pytest.approx(0.29, abs=4 * 0.42 / 12**0.5 / 4000**0.5 + 0.002)
    assert ratio.mean() == pytest.approx(0.0, abs=4 * np.log(16 / 9) / 12**0.5 / 4000**0.5 + 0.002)
    assert area.min() == pytest.approx(0.08, abs=0.005)
    assert ratio.max() == pytest.approx(np.log(4 / 3), abs=0.02)


def test_a_crop_that_never_fits_falls_back_to_the_centre():
    rng = np.random.default_rng(0)
    assert random_resized_crop_box(1000, 10, (0.9, 1.0), (3 / 4, 4 / 3), rng) == (493, 0, 506, 10)


def test_flip_happens_with_its_probability(photo):
    photo, rng = np.asarray(photo), np.random.default_rng(0)
    whole = (8, (1.0, 1.0), (640 / 427, 640 / 427))
    plain = train_transform(*whole, 0.0)(photo, rng)
    flip = train_transform(*whole, 0.25)
    results = [flip(photo, rng).tobytes() for _ in range(400)]
    assert set(results) == {plain.tobytes(), plain[:, ::-1].tobytes()}
    assert 1 - results.count(plain.tobytes()) / 400 == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 400) ** 0.5)
