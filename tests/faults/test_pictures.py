"""What pictures of the wild are like: every kind is read as RGB, what cannot be read is refused."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from focalnet_jax.data.decode import UnreadableImageError, decode
from focalnet_jax.data.transforms import eval_transform, train_transform


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
