"""Decoding accepts what data sets hold; crops have the distribution and the pixels of the published recipes."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from focalnet_jax.data.decode import UnreadableImageError, decode
from focalnet_jax.data.pixels import resize
from focalnet_jax.data.transforms import eval_transform, random_resized_crop_box, train_transform
from focalnet_jax.errors import UserError


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(load_sample_image("china.jpg"))  # 640x427


@pytest.mark.fault(31)
@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "jpg"), ("CMYK", "jpg"), ("RGBA", "png"), ("P", "png"), ("LA", "png"), ("1", "png"), ("RGB", "webp")],
)
def test_every_kind_of_picture_becomes_rgb(tmp_path, photo, mode, suffix):
    path = tmp_path / f"picture.{suffix}"
    photo.convert(mode).save(path)
    decoded = decode(path)
    assert decoded.shape == (photo.height, photo.width, 3)
    assert decoded.dtype == np.uint8
    # the picture is still the picture: at most the loss of its colours, or of all but black and white
    tolerance = 90 if mode == "1" else 40
    difference = decoded.astype(float).mean(-1) - np.asarray(photo, float).mean(-1)
    assert np.abs(difference).mean() < tolerance


@pytest.mark.fault(31)
def test_a_png_named_jpg_is_decoded(tmp_path, photo):
    photo.save(tmp_path / "picture.png")
    (tmp_path / "picture.png").rename(tmp_path / "picture.jpg")
    np.testing.assert_array_equal(decode(tmp_path / "picture.jpg"), photo)


@pytest.mark.fault(32)
def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    ramp = np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(4, 256)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    decoded = decode(tmp_path / "ramp.png")
    np.testing.assert_array_equal(decoded[..., 0], np.round(ramp * (255 / 65535)).astype(np.uint8))


def test_thirty_two_bits_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.int32)).save(tmp_path / "deep.tiff")
    with pytest.raises(UnreadableImageError, match="32 bits"):
        decode(tmp_path / "deep.tiff")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", None])
def test_an_unreadable_file_is_refused(tmp_path, photo, content):
    path = tmp_path / "broken.jpg"
    photo.save(path)
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(UnreadableImageError):
        decode(path)
    with pytest.raises(UnreadableImageError, match="No such file"):
        decode(tmp_path / "absent.jpg")


@pytest.mark.parametrize("options", [dict(quality=75), dict(quality=95, subsampling=0), dict(progressive=True)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_have_pillows_pixels(photo, mode, options):
    encoded = io.BytesIO()
    photo.convert(mode).save(encoded, "JPEG", **options)
    expected = Image.open(io.BytesIO(encoded.getvalue())).convert("RGB")
    np.testing.assert_array_equal(decode(encoded.getvalue()), expected)


@pytest.mark.fault(35)
def test_exif_orientation_is_not_applied(photo):
    encoded, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    photo.save(encoded, "JPEG", exif=exif)
    assert decode(encoded.getvalue()).shape == (photo.height, photo.width, 3)


@pytest.mark.fault(33)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 14_000])  # Pillow itself warns at the first and refuses the second
def test_a_picture_too_large_is_refused_before_it_is_decoded(tmp_path, monkeypatch, side):
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UnreadableImageError, match="pixels"):
        decode(tmp_path / "bomb.png")


@pytest.mark.fault(34)
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (333, 77), (90_000, 1)])
def test_any_shape_of_picture_gives_the_size_asked_for(size):
    rng = np.random.default_rng(0)
    image = np.full((size[1], size[0], 3), (10, 200, 30), np.uint8)
    for pixels in (train_transform(48, (0.08, 1), (3 / 4, 4 / 3), 0.5)(image, rng), eval_transform(48)(image)):
        assert pixels.shape == (48, 48, 3)
        assert pixels.dtype == np.uint8
        assert (pixels == (10, 200, 30)).all()


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
    """Rows, then columns, as Pillow did up to version 12."""
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
        np.testing.assert_array_equal(resize(pixels, box, (size, size), (0, 0, size)), expected)
        mirrored = resize(pixels, box, (size, size), (0, 0, size), mirrored=True)
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
    # means of uniform variables over 4000 draws: four standard deviations of the mean, and a pixel of rounding
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
