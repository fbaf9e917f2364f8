"""Decoding accepts what data sets hold; crops have the distribution and the pixels of the published recipes."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from focalnet_jax.data.transforms import eval_transform, random_resized_crop_box, to_image, train_transform
from focalnet_jax.errors import UserError


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(load_sample_image("china.jpg"))  # 640x427


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "jpg"), ("CMYK", "jpg"), ("RGBA", "png"), ("P", "png"), ("LA", "png"), ("1", "png"), ("RGB", "webp")],
)
def test_every_kind_of_picture_becomes_rgb(tmp_path, photo, mode, suffix):
    path = tmp_path / f"picture.{suffix}"
    photo.convert(mode).save(path)
    decoded = to_image(path)
    assert (decoded.mode, decoded.size) == ("RGB", photo.size)
    # the picture is still the picture: at most the loss of its colours, or of all but black and white
    tolerance = 90 if mode == "1" else 40
    difference = np.asarray(decoded, float).mean(-1) - np.asarray(photo, float).mean(-1)
    assert np.abs(difference).mean() < tolerance


def test_a_png_named_jpg_is_decoded(tmp_path, photo):
    photo.save(tmp_path / "picture.png")
    (tmp_path / "picture.png").rename(tmp_path / "picture.jpg")
    np.testing.assert_array_equal(to_image(tmp_path / "picture.jpg"), photo)


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    ramp = np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(4, 256)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    decoded = np.asarray(to_image(tmp_path / "ramp.png"))
    np.testing.assert_array_equal(decoded[..., 0], np.round(ramp * (255 / 65535)).astype(np.uint8))


def test_thirty_two_bits_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.int32)).save(tmp_path / "deep.tiff")
    with pytest.raises(UserError, match="32 bits"):
        to_image(tmp_path / "deep.tiff")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", None])
def test_an_unreadable_file_is_named(tmp_path, photo, content):
    path = tmp_path / "broken.jpg"
    photo.save(path)
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(UserError, match=r"broken\.jpg"):
        to_image(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 14_000])  # Pillow itself warns at the first and refuses the second
def test_a_picture_too_large_is_refused_before_it_is_decoded(tmp_path, monkeypatch, side):
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"bomb\.png.* pixels"):
        to_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (333, 77), (90_000, 1)])
def test_any_shape_of_picture_gives_the_size_asked_for(size):
    rng = np.random.default_rng(0)
    image = Image.new("RGB", size, (10, 200, 30))
    for pixels in (train_transform(48, (0.08, 1), (3 / 4, 4 / 3), 0.5)(image, rng), eval_transform(48)(image)):
        assert pixels.shape == (48, 48, 3)
        assert pixels.dtype == np.uint8
        assert (pixels == (10, 200, 30)).all()


def test_evaluation_resizes_the_shorter_side_and_crops_the_centre(photo):
    expected = photo.resize((int(256 * 640 / 427), 256), Image.Resampling.BICUBIC)
    left, top = round((expected.width - 224) / 2), 16
    np.testing.assert_array_equal(eval_transform(224)(photo), expected.crop((left, top, left + 224, top + 224)))
    assert eval_transform(384)(photo).shape == (384, 384, 3)
    with pytest.raises(UserError, match="eval_resize"):
        eval_transform(224, 200)


def test_a_thin_picture_is_evaluated_without_resizing_all_of_it(monkeypatch):
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 640).astype(np.uint8), (427, 1))).convert("RGB")
    whole = eval_transform(224)(ramp)
    monkeypatch.setattr("focalnet_jax.data.transforms.MAX_PIXELS", 0)
    assert np.abs(eval_transform(224)(ramp).astype(int) - whole).max() <= 1


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
    rng = np.random.default_rng(0)
    flip = train_transform(8, (1.0, 1.0), (640 / 427, 640 / 427), 0.25)
    plain = flip(photo, np.random.default_rng(3)).tobytes()
    results = [flip(photo, rng).tobytes() for _ in range(400)]
    assert len(set(results)) == 2
    share = results.count(plain) / 400
    assert min(share, 1 - share) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 400) ** 0.5)
