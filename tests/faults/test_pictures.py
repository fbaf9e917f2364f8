"""All kinds of images that occur in practice are read as RGB or are an error."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features
from sklearn.datasets import load_sample_image

from focalnet_jax.data.decode import MAX_SCANS, UnreadableImageError, decode
from focalnet_jax.data.formats import FORMATS
from focalnet_jax.data.transforms import eval_transform, train_transform


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(load_sample_image("china.jpg"))  # 640x427


@pytest.mark.fault(31)
@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "jpg"), ("CMYK", "jpg"), ("RGBA", "png"), ("P", "png"), ("LA", "png"), ("1", "png"), ("RGB", "webp")],
)
def test_images_of_every_mode_are_decoded_to_rgb(tmp_path, photo, mode, suffix):
    path = tmp_path / f"picture.{suffix}"
    photo.convert(mode).save(path)
    decoded = decode(path)
    assert decoded.shape == (photo.height, photo.width, 3)
    assert decoded.dtype == np.uint8
    # the content is the same, except for lost colours, or for black and white only
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


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pillow(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def chunk(name, data, checksum=None):
    checksum = zlib.crc32(name + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


LONG = zlib.compress(b"x" * 3_000_000)
BROKEN_EXIF = b"Exif\0\0MM\0*" + b"\xff" * 8
AROUND_PNG = {
    "long zTXt": chunk(b"zTXt", b"k\0\0" + LONG),
    "long iTXt": chunk(b"iTXt", b"k\0\1\0\0\0" + LONG),
    "much text": chunk(b"tEXt", b"k\0" + b"x" * 1_000_000) * 70,
    "text of an unknown compression": chunk(b"zTXt", b"k\0\x05"),
    "text with a wrong checksum": chunk(b"tEXt", b"k\0v", 1),
    "a private chunk with a wrong checksum": chunk(b"prVt", b"k\0v", 1),
    "a chunk whose name is no text": chunk(b"t\xe9xt", b""),
    "a broken profile": chunk(b"iCCP", b"k\0\7garbage"),
    "a profile that is a bomb": chunk(b"iCCP", b"k\0\0" + LONG),
    "broken EXIF": chunk(b"eXIf", BROKEN_EXIF),
    **{
        f"a short {name.decode()}": chunk(name, b"\1")
        for name in (b"gAMA", b"cHRM", b"pHYs", b"sRGB", b"acTL", b"fcTL")
    },
}
AROUND_JPEG = {
    "broken EXIF": segment(0xE1, BROKEN_EXIF),
    "a broken profile": segment(0xE2, b"ICC_PROFILE\0\5\1garbage"),
    "a broken index of pictures": segment(0xE2, b"MPF\0MM\0*" + b"\xff" * 8),
    "a broken Photoshop resource": segment(0xED, b"Photoshop 3.0\x008BIM\4\xff\0\0"),
}


@pytest.mark.parametrize("what", AROUND_PNG)
@pytest.mark.parametrize("behind", [False, True])
def test_a_png_is_read_whatever_its_other_chunks_hold(photo, what, behind):
    whole = encoded(photo.resize((64, 43)).convert("P"), "PNG", transparency=3)
    place = whole.rindex(b"IEND") - 4 if behind else 33  # before the end, or after the header
    content = whole[:place] + AROUND_PNG[what] + whole[place:]
    np.testing.assert_array_equal(decode(content), decode(whole))


@pytest.mark.parametrize("what", AROUND_JPEG)
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_jpeg_is_read_whatever_its_metadata_hold(photo, what, mode):
    whole = encoded(photo.resize((64, 43)).convert(mode), "JPEG")
    np.testing.assert_array_equal(decode(whole[:2] + AROUND_JPEG[what] + whole[2:]), pillow(whole))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_bytes_before_and_behind_a_picture_do_not_matter(photo, format):
    whole = encoded(photo.resize((64, 43)), format)
    np.testing.assert_array_equal(decode(whole + b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 99), pillow(whole))
    if format in ("PNG", "JPEG", "WEBP", "GIF"):
        for before in (b"\n", b"\xef\xbb\xbf", b"\r\n\r\n \0"):
            np.testing.assert_array_equal(decode(before + whole), pillow(whole))


def test_a_picture_cut_off_behind_its_pixels_is_read_and_one_cut_before_is_not(photo):
    small = photo.resize((64, 43))
    jpeg, webp = encoded(small, "JPEG"), encoded(small, "WEBP", exif=BROKEN_EXIF)
    png = encoded(small, "PNG")
    text = chunk(b"tEXt", b"k\0" + b"x" * 99)
    for whole, cut in ((jpeg, jpeg[:-1]), (jpeg, jpeg[:-2]), (webp, webp[:-4]), (png, png[:-12] + text[:50])):
        np.testing.assert_array_equal(decode(cut), pillow(whole))
    for cut in (
        jpeg[:-40],
        webp[: len(webp) // 2],
        png[: len(png) // 2],
        encoded(small, "JPEG", progressive=True)[:-2],
    ):
        with pytest.raises(UnreadableImageError, match="cannot be decoded"):
            decode(cut)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_the_pixels_of_pillow(photo, format):
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    content = encoded(photo.resize((64, 43)), format)
    np.testing.assert_array_equal(decode(content), pillow(content))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_picture_of_several_is_read(photo, format):
    first = photo.resize((64, 43)).quantize(64).convert("RGB")
    content = encoded(first, format, save_all=True, append_images=[Image.new("RGB", first.size)])
    np.testing.assert_allclose(decode(content), first, atol=0 if format != "WEBP" else 90)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_tiffs_of_every_compression_are_read(photo, compression, mode):
    content = encoded(photo.resize((64, 43)).convert(mode), "TIFF", compression=compression)
    np.testing.assert_array_equal(decode(content), pillow(content))


def test_sixteen_bits_of_a_pgm_are_scaled_by_its_largest_value():
    content = b"P5 3 1 4095\n" + struct.pack(">HHH", 0, 2048, 4095)
    np.testing.assert_array_equal(decode(content)[0, :, 0], [0, 128, 255])


def tiff(*tags):
    """Returns a TIFF with one grey pixel and additional tags (number, type, count, value)."""
    plain = [
        (256, 3, 1, 1),
        (257, 3, 1, 1),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 3, 1, 4),
        (279, 3, 1, 1),
    ]
    entries = sorted(plain + list(tags))
    body = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<LH", 8, len(entries)) + body + bytes(4)


def brand(name):
    return b"\0\0\0\x18ftyp" + name + b"\0\0\0\0mif1heic"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "an empty file"),
        (bytes(5000), "a file that contains only zeros"),
        (brand(b"heic") + bytes(99), "a HEIC image"),
        (brand(b"mif1") + bytes(99), "a HEIC image"),
        (brand(b"crx "), "a Canon raw file"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", r"a video \(MP4"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", r"a video \(MP4"),
        (b"\xff\x0a\xfa\x1f", "a JPEG XL image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"II*\0\x10\0\0\0CR\2\0", "a Canon raw file"),
        (tiff((50706, 1, 4, 1025)), "a camera's raw file"),
        (tiff((254, 4, 1, 1), (330, 4, 2, 8)), "a camera's raw file"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"%PDF-1.7", "a PDF file"),
        (b"<?xml version='1.0'?>\n<svg width='3'/>", "an SVG drawing"),
        (b"\xef\xbb\xbf<svg/>", "an SVG drawing"),
        (b"\n\n<!DOCTYPE html><title>404</title>", "an HTML page"),
        (b"<HTML><body>", "an HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer.*git lfs pull"),
        (b'{"error": "rate limit"}', "a text file"),
        ("Zugriff verweigert: ä".encode(), "a text file"),
        (b"PK\3\4", "a zip archive"),
        (b"\x1f\x8b\x08", "a gzip file"),
        (bytes(257) + b"ustar", "a tar archive"),
        (b"\x1aE\xdf\xa3", "a video"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (b"\0\0\1\0\1\0", "a Windows icon"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Thumbs.db"),
        (b"\x89\x12\xff\x00" * 9, "not an image of a known format"),
    ],
)  # fmt: skip
def test_files_that_are_not_decoded_are_named_by_their_kind(content, named):
    with pytest.raises(UnreadableImageError, match=named):
        decode(content)


def test_a_file_that_would_take_too_much_memory_or_time_is_refused(photo):
    bomb = tiff(*((number, 1, 2_000_000, 8) for number in range(1000, 1100))) + bytes(2_000_000)
    with pytest.raises(UnreadableImageError, match="its tags have 200,0"):
        decode(bomb)
    with pytest.raises(UnreadableImageError, match="tiles of 60000x60000"):
        decode(tiff((322, 3, 1, 60000), (323, 3, 1, 60000)))
    scan = encoded(photo.resize((64, 43)), "JPEG", progressive=True)
    last = scan.rindex(b"\xff\xda")
    with pytest.raises(UnreadableImageError, match="scans; at most"):
        decode(scan[:last] + scan[last:-2] * MAX_SCANS + scan[-2:])


def test_a_device_is_not_read():
    with pytest.raises(UnreadableImageError, match="a device"):
        decode("/dev/zero")


@pytest.mark.fault(35)
def test_exif_orientation_is_not_applied(photo):
    encoded, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    photo.save(encoded, "JPEG", exif=exif)
    assert decode(encoded.getvalue()).shape == (photo.height, photo.width, 3)


@pytest.mark.fault(33)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 14_000])  # Pillow warns about the first and rejects the second
def test_an_image_that_is_too_large_is_refused_before_it_is_decoded(tmp_path, monkeypatch, side):
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UnreadableImageError, match="pixels"):
        decode(tmp_path / "bomb.png")


@pytest.mark.fault(34)
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (333, 77), (90_000, 1)])
def test_images_of_any_shape_are_resized_to_the_configured_size(size):
    rng = np.random.default_rng(0)
    image = np.full((size[1], size[0], 3), (10, 200, 30), np.uint8)
    for pixels in (train_transform(48, (0.08, 1), (3 / 4, 4 / 3), 0.5)(image, rng), eval_transform(48)(image)):
        assert pixels.shape == (48, 48, 3)
        assert pixels.dtype == np.uint8
        assert (pixels == (10, 200, 30)).all()
