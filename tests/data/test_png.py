"""Numbers of PNGs equal Pillow's; what is not supported is left to Pillow."""

import io
import itertools
import zlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from focalnet_jax.data.png import decode_numbers

GREY = np.asarray(Image.fromarray(load_sample_images().images[0]).convert("L").resize((149, 101)))
LABELS = GREY // 40


def chunk(name, content):
    return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)


def png(kinds, numbers=GREY, header=b"\x08\x00\x00\x00\x00", parts=1, cut=None):
    """Returns a PNG that stores differences from predictions of the given kinds, one per row in turns."""
    padded = np.pad(numbers.astype(int), ((1, 0), (1, 0)))
    left, above, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    guess = left + above - corner
    nearest = np.argmin([abs(guess - left), abs(guess - above), abs(guess - corner)], axis=0)
    paeth = np.choose(nearest, [left, above, corner])
    predictions = [np.zeros_like(left), left, above, (left + above) // 2, paeth]
    lines = b""
    for y in range(len(numbers)):
        kind = kinds[y % len(kinds)]
        lines += bytes([kind]) + (numbers[y] - predictions[min(kind, 4)][y]).astype(np.uint8).tobytes()
    size = numbers.shape[1].to_bytes(4) + numbers.shape[0].to_bytes(4)
    packed = zlib.compress(lines[:cut])
    bounds = np.linspace(0, len(packed), parts + 1).astype(int)
    data = [chunk(b"IDAT", packed[begin:end]) for begin, end in itertools.pairwise(bounds)]
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", size + header), *data, chunk(b"IEND", b"")])


def saved(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def pillows(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)))


@pytest.mark.parametrize("kinds", [[0], [1], [2], [3], [4], [4, 2, 3, 1, 0], [1, 4, 4, 3]])
@pytest.mark.parametrize("numbers", [GREY, LABELS, LABELS[:1], LABELS[:, :1]], ids=["grey", "labels", "row", "column"])
def test_every_kind_of_prediction_gives_pillows_numbers(kinds, numbers):
    encoded = png(kinds, numbers, parts=3)
    np.testing.assert_array_equal(decode_numbers(encoded), pillows(encoded))
    np.testing.assert_array_equal(pillows(encoded), numbers)


@pytest.mark.parametrize("options", [{}, {"compress_level": 0}, {"transparency": 3}])
def test_files_of_pillow_have_their_numbers(options):
    for image in (Image.fromarray(LABELS), Image.fromarray(LABELS).convert("P")):
        np.testing.assert_array_equal(decode_numbers(saved(image, **options)), np.asarray(image))


def test_other_types_are_left_to_pillow():
    images = [Image.fromarray(LABELS).convert(mode) for mode in ("1", "RGB", "LA")]
    for image in [*images, Image.fromarray(LABELS.astype(np.uint16))]:
        assert decode_numbers(saved(image)) is None
    assert decode_numbers(saved(Image.fromarray(LABELS).convert("P"), bits=4)) is None
    frames = saved(Image.fromarray(LABELS), save_all=True, append_images=[Image.fromarray(GREY)])
    assert decode_numbers(frames) is None
    assert decode_numbers(png([0], header=b"\x08\x00\x00\x00\x01")) is None  # interlaced


def test_damaged_files_are_left_to_pillow():
    whole = png([4, 1], parts=2)
    for end in range(0, len(whole) - 12, 97):
        assert decode_numbers(whole[:end]) is None
    draw = np.random.default_rng(0)
    for at in draw.integers(0, len(whole), 300):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << draw.integers(8)
        found = decode_numbers(bytes(damaged))
        assert found is None or np.array_equal(found, GREY)
    assert decode_numbers(b"") is None
    assert decode_numbers(png([5])) is None
    assert decode_numbers(png([0], cut=-1)) is None
    assert decode_numbers(png([0], np.zeros((0, 3), np.uint8))) is None
    huge = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\x7f\xff\xff\xff" * 2 + b"\x08\x00\x00\x00\x00")
    assert decode_numbers(huge + chunk(b"IDAT", zlib.compress(bytes(9)))) is None
