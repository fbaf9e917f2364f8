"""Masks of every coding become the same class numbers, and masks that cannot be used say why."""

import io
import re

import numpy as np
import pytest
from PIL import Image, ImageOps

from focalnet_jax.data.loader import ReadOptions, eval_batches, train_batches
from focalnet_jax.data.masks import MaskCoding, UnreadableMaskError, decode_mask, decode_pair
from focalnet_jax.data.substitutions import Substitutions
from focalnet_jax.errors import UserError
from tests.data.masks import GREY, GREY_ALPHA, PALETTE, RGB, chunk, grey_png, raw_png
from tests.data.pictures import encoded

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
COLOURS = ((10, 20, 30), (0, 0, 0), (200, 0, 7))
CODING = MaskCoding(3)
COLOURED = MaskCoding(3, colours=COLOURS, ignored=((255, 255, 255),))
NUMBERS = np.random.default_rng(0).integers(0, 3, (5, 7)).astype(np.uint8)
WITH_IGNORED = np.where(np.random.default_rng(1).random((5, 7)) < 0.3, 255, NUMBERS).astype(np.uint8)
PAINTED = np.array([*COLOURS, *[(255, 255, 255)] * 253], np.uint8)[WITH_IGNORED]


def saved(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def palette(values):
    image = Image.fromarray(values).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette(np.random.default_rng(2).integers(0, 256, 768).tolist())
    return image


@pytest.mark.parametrize(
    "stored",
    [
        grey_png(WITH_IGNORED),
        saved(palette(WITH_IGNORED)),
        saved(palette(WITH_IGNORED), transparency=0),
        saved(palette(WITH_IGNORED), "TIFF"),
        saved(Image.fromarray(WITH_IGNORED), "TIFF", compression="tiff_lzw"),
        saved(Image.fromarray(WITH_IGNORED.astype(np.uint16)), "TIFF"),
        raw_png(WITH_IGNORED, 16),
        WITH_IGNORED,
        WITH_IGNORED.astype(np.int64),
    ],
    ids=["grey", "palette", "transparent palette", "palette TIFF", "TIFF", "TIFF16", "grey16", "array", "int64"],
)
def test_masks_that_store_numbers_decode_to_these_numbers(stored):
    mask = decode_mask(stored, CODING)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, WITH_IGNORED)


@pytest.mark.parametrize(
    ("bits", "kind"), [*((bits, GREY) for bits in (1, 2, 4, 8, 16)), *((bits, PALETTE) for bits in (1, 2, 4, 8))]
)
def test_the_bits_of_a_png_do_not_change_its_numbers(bits, kind):
    numbers = NUMBERS % min(3, 2**bits)
    stored = raw_png(numbers, bits, kind, bytes(range(6)) if kind == PALETTE else b"")
    np.testing.assert_array_equal(decode_mask(stored, CODING), numbers)


def test_masks_that_store_colours_decode_to_the_places_of_the_colours():
    opaque = np.concatenate([PAINTED, np.full((5, 7, 1), 255, np.uint8)], axis=-1)
    for stored in (saved(Image.fromarray(PAINTED)), saved(Image.fromarray(opaque)), raw_png(PAINTED, 8, RGB)):
        np.testing.assert_array_equal(decode_mask(stored, COLOURED), WITH_IGNORED)


def test_grey_colours_are_read_from_grey_masks():
    coding = MaskCoding(2, colours=((0, 0, 0), (255, 255, 255)))
    mask = np.eye(5, dtype=np.uint8)
    bilevel = saved(Image.fromarray(mask * 255).convert("1"))
    colours = saved(Image.fromarray(mask * 255).convert("RGB"))
    for stored in (grey_png(mask * 255), bilevel, colours, raw_png(mask * 15, 4), raw_png(mask * 255, 16)):
        np.testing.assert_array_equal(decode_mask(stored, coding), mask)


def test_colours_in_the_class_list_do_not_change_masks_that_store_numbers():
    np.testing.assert_array_equal(decode_mask(grey_png(WITH_IGNORED), COLOURED), WITH_IGNORED)
    np.testing.assert_array_equal(decode_mask(saved(palette(WITH_IGNORED)), COLOURED), WITH_IGNORED)


def test_a_palette_with_the_colours_of_other_classes_is_refused():
    image = palette(NUMBERS)
    image.putpalette(np.array(COLOURS)[[1, 0, 2]].ravel().tolist())
    with pytest.raises(UnreadableMaskError, match="the entry 0 of its palette has the colour 0 0 0 of the label 1"):
        decode_mask(saved(image), COLOURED)
    image.putpalette(np.array(COLOURS).ravel().tolist())
    np.testing.assert_array_equal(decode_mask(saved(image), COLOURED), NUMBERS)


def test_the_zero_label_is_reduced_like_in_mmsegmentation():
    stored = np.array([[*range(151), 255]], np.uint8)
    expected = stored.copy()  # the next three lines are those of mmsegmentation's LoadAnnotations
    expected[expected == 0] = 255
    expected = expected - 1
    expected[expected == 254] = 255
    coding = MaskCoding(150, reduce_zero_label=True)
    for each in (stored, grey_png(stored), raw_png(stored, 16), saved(palette(stored))):
        np.testing.assert_array_equal(decode_mask(each, coding), expected)


@pytest.mark.parametrize(
    ("stored", "coding", "message"),
    [
        (grey_png([[0, 3], [4, 255]]), CODING, r"label 3 \(row 0, column 1; 2 pixels .*expected 0 to 2, or 255"),
        (grey_png([[3]]), CODING, "set --config.data.reduce_zero_label=True if 0 is not a class"),
        (grey_png([[4]]), MaskCoding(3, True), "label 4 .*expected 1 to 3, or 0 or 255 for ignored"),
        (raw_png(np.array([[256]]), 16), MaskCoding(254, True), "label 256 "),
        (raw_png(np.array([[257, 0]]), 16), CODING, "label 257 "),
        (np.array([[0, -1]]), CODING, "label -1 .row 0, column 1"),
        (np.zeros((2, 2)), CODING, "values of the type float64; expected integers"),
        (np.zeros((2, 2, 1), np.uint8), CODING, r"shape \[2, 2, 1\]; expected \[height, width\]"),
        (saved(Image.fromarray(PAINTED)), CODING, "stores colours; expected one number per pixel, or a class list"),
        (saved(Image.fromarray(PAINTED + 1)), COLOURED, "colour 201 1 8 .*is not in the class list: add the colour"),
        (encoded(Image.fromarray(NUMBERS)), CODING, "is a JPEG image, a format that may change labels"),
        (saved(palette(NUMBERS), "GIF"), CODING, "is a GIF image, a format that may change labels"),
        (encoded(Image.fromarray(PAINTED), "WEBP"), CODING, "is a WEBP image, a format that may change labels"),
        (grey_png(NUMBERS)[:45], CODING, "is a PNG image that cannot be decoded"),
        (b"", CODING, "an empty file"),
        (b"<html>", CODING, "an HTML page"),
        (b"\x01\x02\x03\x04\x05", CODING, "not an image of a known format"),
        (raw_png(np.zeros((2, 2, 3), int), 16, RGB), COLOURED, "16 bits per channel"),
        (raw_png(np.zeros((2, 2, 2), int), 16, GREY_ALPHA), CODING, "16 bits per channel"),
        (saved(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"), CODING, r"unsupported kind \(F\)"),
        (saved(Image.fromarray(NUMBERS), "TIFF", tiffinfo={262: 0}), CODING, "photometric interpretation 0"),
        (saved(Image.new("1", (11_000, 11_000))), CODING, "11000x11000 pixels; at most"),
        ("no/such.png", CODING, "its mask no/such.png: No such file or directory"),
    ],
)  # fmt: skip
@pytest.mark.fault(53)
def test_a_mask_that_cannot_be_used_says_why(stored, coding, message):
    with pytest.raises(UnreadableMaskError, match=message) as caught:
        decode_mask(stored, coding)
    assert re.match(r"its mask[: ]", str(caught.value))
    assert "\n" not in str(caught.value)


def test_damaged_metadata_of_a_mask_are_ignored():
    content = grey_png(WITH_IGNORED)
    damaged = content[:33] + chunk(b"iCCP", b"x\0\0no profile")[:-1] + b"?" + content[33:]
    np.testing.assert_array_equal(decode_mask(damaged, CODING), WITH_IGNORED)


def turned_pair(orientation, size, format="JPEG"):
    """Returns an image with an EXIF orientation, its mask as drawn on the turned image, and on the stored image."""
    rng = np.random.default_rng(3)
    mask = rng.integers(0, 3, size, np.uint8)
    image = Image.fromarray(np.repeat(mask[..., None] * 80, 3, axis=-1))
    exif = Image.Exif()
    exif[274] = orientation
    drawn = Image.fromarray(mask)
    drawn.getexif()[274] = orientation
    return saved(image, format, exif=exif), grey_png(np.asarray(ImageOps.exif_transpose(drawn))), mask


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.fault(54)
def test_a_mask_of_the_turned_image_is_turned_back(orientation, format):
    image, stored, expected = turned_pair(orientation, (24, 32), format)
    pixels, mask = decode_pair(image, stored, CODING)
    assert pixels.shape == (24, 32, 3)
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(decode_pair(image, grey_png(expected), CODING)[1], expected)  # not turned at all
    if format == "PNG":
        np.testing.assert_array_equal(pixels[..., 0], mask * 80)


@pytest.mark.parametrize(("orientation", "size"), [(2, (24, 32)), (3, (24, 32)), (4, (24, 32)), (6, (24, 24))])
@pytest.mark.fault(54)
def test_an_orientation_that_keeps_the_size_is_refused(orientation, size):
    image, stored, _ = turned_pair(orientation, size)
    with pytest.raises(UserError, match=f"its EXIF orientation is {orientation}, and its mask may be"):
        decode_pair(image, stored, CODING)


def test_an_upright_image_is_decoded_with_its_mask():
    image, stored, expected = turned_pair(1, (24, 32))
    np.testing.assert_array_equal(decode_pair(image, stored, CODING)[1], expected)
    pixels = np.zeros((24, 32, 3), np.uint8)
    assert decode_pair(pixels, expected, CODING)[0] is pixels


class Pairs:
    """Four images, of which the second has a mask of another size."""

    class_names, fingerprint = ("a", "b", "c"), "pairs"

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return np.zeros((5, 7, 3), np.uint8), grey_png(NUMBERS[:, : 6 if index == 1 else 7])

    def name(self, index):
        """Returns the name of an example."""
        return f"image {index}"


class PairHost:
    """Decodes pairs."""

    def eval_example(self, example):
        """Returns the image and the mask."""
        image, mask = decode_pair(*example, CODING)
        return {"image": image, "target": mask}

    def train_example(self, example, rng):
        """Returns the image and the mask, not augmented."""
        return self.eval_example(example)


@pytest.mark.fault(53)
def test_a_mask_of_another_size_is_counted_in_training_and_refused_in_evaluation(capsys):
    reading = ReadOptions(threads=0)
    batches = train_batches(Pairs(), PairHost(), batch_size=4, seed=0, start_step=0, end_step=1, reading=reading)
    substitutions = Substitutions(Pairs(), PairHost(), most=0.5)
    assert len(list(substitutions.counted(batches))) == 1
    assert substitutions.count == 1
    line = "warning: cannot read image image 1 (its mask has 6x5 pixels, the image 7x5: store both with the same size)"
    assert line in capsys.readouterr().err
    with pytest.raises(UserError, match=r"cannot read image image 1 \(its mask has 6x5 pixels"):
        list(eval_batches(Pairs(), PairHost(), batch_size=4, reading=reading))
