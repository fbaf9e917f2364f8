"""Image operations equal Pillow's, and policies draw operations like timm's."""

import math
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from focalnet_jax.data import colours, policies, warps
from focalnet_jax.data.policies import FILL, OPERATIONS, ColourJitter, parse_policy, three_augment
from focalnet_jax.errors import UserError

CONFIDENCE = 4  # standard deviations: one false alarm in 16,000 comparisons


def pictures():
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    noise = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)
    return [
        photos[0].resize((224, 224)),
        photos[1].resize((96, 61)),
        Image.fromarray(np.asarray(photos[0].resize((50, 70))) // 2 + 30),  # does not contain all pixel values
        Image.fromarray(noise),
        Image.new("RGB", (9, 5), (7, 200, 90)),
        Image.new("RGB", (2, 2), (1, 2, 3)),
    ]


def worst(ours, theirs):
    return np.abs(ours.astype(int) - np.asarray(theirs).astype(int)).max()


TRANSFORM = dict(resample=Image.Resampling.BICUBIC, fillcolor=FILL)


@pytest.mark.parametrize("amount", [0.27, -0.27, 0.0, 0.1234, -0.405, 0.99])
@pytest.mark.parametrize("image", pictures(), ids=lambda image: f"{image.width}x{image.height}")
def test_geometric_operations_are_pillows_within_a_level(image, amount):
    array = np.asarray(image)
    height, width = array.shape[:2]
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5

    def pillows(*matrix):
        return image.transform(image.size, Image.Transform.AFFINE, matrix, **TRANSFORM)

    assert worst(warps.shift_rows(array, amount * rows, FILL), pillows(1, amount, 0, 0, 1, 0)) <= 1
    assert worst(warps.shift_columns(array, amount * columns, FILL), pillows(1, 0, 0, amount, 1, 0)) <= 1
    moved = warps.shift_rows(array, np.full(height, amount * width), FILL)
    assert worst(moved, pillows(1, 0, amount * width, 0, 1, 0)) <= 1
    moved = warps.shift_columns(array, np.full(width, amount * height), FILL)
    assert worst(moved, pillows(1, 0, 0, 0, 1, amount * height)) <= 1
    assert worst(warps.rotate(array, 100 * amount, FILL), image.rotate(100 * amount, **TRANSFORM)) <= 1


@pytest.mark.parametrize("image", pictures(), ids=lambda image: f"{image.width}x{image.height}")
def test_photometric_operations_are_pillows(image):
    array = np.asarray(image)
    np.testing.assert_array_equal(colours.autocontrast(array), ImageOps.autocontrast(image))
    np.testing.assert_array_equal(colours.equalize(array), ImageOps.equalize(image))
    np.testing.assert_array_equal(colours.invert(array), ImageOps.invert(image))
    for bits in (1, 2, 4, 8):
        np.testing.assert_array_equal(colours.posterize(array, bits), ImageOps.posterize(image, bits))
    assert not colours.posterize(array, 0).any()  # as in Pillow before 13; Pillow 13 rejects it
    for threshold in (0, 26, 128, 256):
        np.testing.assert_array_equal(colours.solarize(array, threshold), ImageOps.solarize(image, threshold))
    added = image.point([min(255, level + 99) if level < 128 else level for level in range(256)] * 3)
    np.testing.assert_array_equal(colours.solarize_add(array, 99), added)
    enhancements = {
        colours.brightness: ImageEnhance.Brightness,
        colours.contrast: ImageEnhance.Contrast,
        colours.saturation: ImageEnhance.Color,
        colours.sharpness: ImageEnhance.Sharpness,
    }
    for ours, theirs in enhancements.items():
        for factor in (0.0, 0.1, 0.19, 0.5, 1.0, 1.3, 1.81, 1.9):
            np.testing.assert_array_equal(ours(array, factor), theirs(image).enhance(factor))


@pytest.fixture
def recorded(monkeypatch):
    """Records the operations that policies choose, as (name, magnitude) pairs, instead of applying them."""
    calls = []

    def recorder(name):
        return lambda image, magnitude, rng, *fill: calls.append((name, magnitude)) or image

    monkeypatch.setattr(policies, "OPERATIONS", {name: recorder(name) for name in policies.OPERATIONS})
    return calls


def assert_share(count, draws, probability):
    deviation = math.sqrt(draws * probability * (1 - probability))
    assert abs(count - draws * probability) < CONFIDENCE * deviation


def test_the_recipes_policy_applies_two_of_fifteen_operations_each_with_probability_one_half(recorded):
    policy, rng, images = parse_policy("rand-m9-mstd0.5-inc1"), np.random.default_rng(0), 4000
    numbers = Counter()
    for _ in range(images):
        before = len(recorded)
        policy(np.zeros((4, 4, 3), np.uint8), rng)
        numbers[len(recorded) - before] += 1
    for count, probability in {0: 0.25, 1: 0.5, 2: 0.25}.items():
        assert_share(numbers[count], images, probability)
    names = Counter(name for name, _ in recorded)
    assert set(names) == {
        "AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeIncreasing", "SolarizeIncreasing", "SolarizeAdd",
        "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing", "ShearX", "ShearY",
        "TranslateXRel", "TranslateYRel",
    }  # fmt: skip
    for count in names.values():
        assert_share(count, len(recorded), 1 / 15)
    magnitudes = np.array([magnitude for _, magnitude in recorded])
    assert magnitudes.max() <= 10
    # normal with mean 9 and deviation 0.5, clipped at 10 (two deviations), which moves the mean by less than 0.005
    assert magnitudes.mean() == pytest.approx(9, abs=CONFIDENCE * 0.5 / math.sqrt(len(magnitudes)) + 0.005)
    assert magnitudes.std() == pytest.approx(0.5, rel=0.08)
    assert_share(
        (magnitudes == 10).sum(), len(magnitudes), 0.02275
    )  # the fraction of a normal distribution above two deviations


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rand", dict(magnitude=10, layers=2, probability=0.5, std=0, highest=10)),
        ("rand-m7-n3-p0.8-mmax20-inc0", dict(magnitude=7, layers=3, probability=0.8, highest=20)),
        ("rand-mstd101-m5", dict(std=math.inf, magnitude=5)),
        ("rand-mstdinf", dict(std=math.inf)),
    ],
)
def test_policies_are_written_as_in_timm(text, expected):
    policy = parse_policy(text)
    assert {key: getattr(policy, key) for key in expected} == expected
    assert "Posterize" in policy.operations  # not the increasing versions


def test_even_magnitudes_fill_their_range(recorded):
    policy, rng = parse_policy("rand-m8-mstdinf-p1-n1"), np.random.default_rng(0)
    for _ in range(2000):
        policy(np.zeros((4, 4, 3), np.uint8), rng)
    magnitudes = np.array([magnitude for _, magnitude in recorded])
    assert magnitudes.mean() == pytest.approx(4, abs=CONFIDENCE * 8 / math.sqrt(12 * 2000))
    assert magnitudes.max() <= 8


def test_signs_are_even_and_strengths_are_timms(monkeypatch):
    seen = []
    monkeypatch.setattr(warps, "rotate", lambda image, degrees, fill: seen.append(degrees))
    monkeypatch.setattr(warps, "shift_rows", lambda image, offsets, fill: seen.append(offsets[0]))
    monkeypatch.setattr(colours, "contrast", lambda image, factor: seen.append(factor))
    image, rng = np.zeros((100, 80, 3), np.uint8), np.random.default_rng(0)
    for name, strength in {"Rotate": 27, "ShearX": 0.27 * 0.5, "TranslateXRel": 0.405 * 80}.items():
        seen.clear()
        for _ in range(400):
            policies.OPERATIONS[name](image, 9.0, rng)
        assert set(np.round(seen, 9)) == {round(strength, 9), round(-strength, 9)}
        assert_share(sum(value > 0 for value in seen), 400, 0.5)
    seen.clear()
    for _ in range(50):
        policies.OPERATIONS["ContrastIncreasing"](image, 9.0, rng)
        policies.OPERATIONS["ContrastIncreasing"](image, 10.0, rng)
    assert set(np.round(seen, 9)) == {1.81, 0.19, 1.9, 0.1}


def test_three_augment_takes_one_of_three(recorded):
    rng = np.random.default_rng(0)
    for _ in range(900):
        three_augment(np.zeros((4, 4, 3), np.uint8), rng)
    counts = Counter(recorded)
    assert set(counts) == {("Solarize", 5.0), ("Desaturate", 10.0), ("GaussianBlurRand", 10.0)}
    for count in counts.values():
        assert_share(count, 900, 1 / 3)


def test_three_augment_makes_grey_blurred_or_solarized_pictures():
    image = np.asarray(pictures()[1])
    results = [parse_policy("3a")(image, np.random.default_rng(seed)) for seed in range(12)]
    grey = [np.ptp(result, axis=-1).max() == 0 for result in results]
    assert any(grey)
    assert not all(grey)


def test_colour_jitter_stays_in_its_range_and_varies_in_order():
    image, rng = np.full((4, 4, 3), (100, 120, 140), np.uint8), np.random.default_rng(0)
    results = np.stack([ColourJitter(0.2)(image, rng)[0, 0] for _ in range(200)])
    assert len(np.unique(results, axis=0)) > 100
    # brightness and contrast each change a pixel value by at most a fifth, saturation its distance from grey
    assert results.min() >= 100 * 0.8 * 0.8 - 10
    assert results.max() <= 140 * 1.2 * 1.2 + 10
    np.testing.assert_array_equal(ColourJitter(0.0)(image, rng), image)


def test_posterize_of_any_strength_is_timms():
    image = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    np.testing.assert_array_equal(OPERATIONS["Posterize"](image, 25.0, None), image)  # 10 bits: keeps all of them
    assert not OPERATIONS["PosterizeIncreasing"](image, 10.0, None).any()
    assert set(np.unique(OPERATIONS["Posterize"](image, 5.0, None))) == {0, 64, 128}


@pytest.mark.parametrize(
    "text",
    [
        *("rnd-m9", "rand-x3", "rand-m", "rand-m9-p2", "rand m9", "augmix-m3", "rand-n0", "rand-n2.5", "rand-m9-m5"),
        *("rand-ninf", "rand-minf-mstdinf", "rand-minf-mmaxinf", "rand-pinf", "rand-m" + "9" * 400),
    ],
)
def test_an_unknown_policy_is_refused(text):
    with pytest.raises(UserError, match=r"augment\.policy="):
        parse_policy(text)
