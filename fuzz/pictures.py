"""Fuzzes images of every format through `decode` and `read_picture`, and compares them with Pillow's decoding."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, features

from focalnet_jax.data.decode import MAX_PIXELS, UnreadableImageError, decode
from focalnet_jax.data.formats import FORMATS, IMAGE_SUFFIXES
from focalnet_jax.errors import UserError
from focalnet_jax.inference import read_picture
from fuzz.mutations import Rng, mutate_bytes, pick
from fuzz.runner import Family, WrongAnswerError

_MODES = ("RGB", "L", "RGBA", "P", "1", "LA", "CMYK", "I;16")
# Reasons for which an image is refused although Pillow would decode it.
_REFUSED_ON_PURPOSE = re.compile(r"pixels; at most|32 bits|tiles of|its tags have|scans; at most|raw file")
_WEAK = ("DIB", "PCX")  # formats that Pillow recognises by a few bytes only
# Signatures of formats whose damaged files are repaired where Pillow refuses them.
_MENDED = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"\0\0\0\x0cjP", b"\xff\x4f")
_BEFORE = b" \t\r\n\0\xef\xbb\xbf"


@dataclass(frozen=True)
class Picture:
    """An undamaged image file and its pixels."""

    format: str
    content: bytes
    pixels: np.ndarray


def prepare(_: Path) -> list[Picture]:
    """Returns small images of every format, mode and compression."""
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (5, 7, 3)), np.ones((4, 4, 1))).astype(np.uint8)  # [20, 28, 3]
    photo = Image.fromarray(np.clip(smooth + rng.integers(0, 9, smooth.shape), 0, 255).astype(np.uint8))
    files = [(format, photo, mode, {}) for format in FORMATS for mode in _MODES]
    files += [("TIFF", photo, mode, {"compression": each}) for each in _COMPRESSIONS for mode in ("RGB", "L")]
    files += [("TIFF", photo, "1", {"compression": "group4"})]
    files += [("JPEG", photo, mode, {"progressive": True}) for mode in ("RGB", "L", "CMYK")]
    files += [("JPEG", photo, "RGB", {"subsampling": each, "optimize": True}) for each in (0, 1)]
    several = {"save_all": True, "append_images": [photo.rotate(180), photo.rotate(90)]}
    files += [(format, photo, "RGB", several) for format in ("GIF", "PNG", "WEBP", "TIFF", "AVIF")]
    files += [("WEBP", photo, mode, {"lossless": True, "exif": b"Exif\0\0MM\0*\0\0"}) for mode in ("RGB", "RGBA")]
    files += [("PNG", photo, "P", {"transparency": 3, "bits": 4}), ("GIF", photo, "P", {"transparency": 3})]
    return [picture for each in files if (picture := _picture(*each))]


_COMPRESSIONS = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma")


def _picture(format: str, photo: Image.Image, mode: str, options: dict) -> Picture | None:
    if format == "AVIF" and not features.check("avif"):
        return None
    buffer = io.BytesIO()
    image = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257) if mode == "I;16" else photo
    try:
        (image if mode == "I;16" else image.convert(mode)).save(buffer, format, **options)
    except Exception:  # not every format has every mode
        return None
    content = buffer.getvalue()
    expected = pillow_pixels(content)
    return None if expected is None else Picture(format, content, expected)


def pillow_pixels(content: bytes, without: Sequence[str] = ()) -> np.ndarray | None:
    """Returns the pixels that Pillow decodes, converted to RGB as in docs/data.md.

    Returns None if Pillow rejects the file or decodes pixels of a different range.
    """
    without = without if content.endswith(b"TRUEVISION-XFILE.\0") else (*without, "TGA")
    formats = [each for each in FORMATS if each not in without]
    try:
        with Image.open(io.BytesIO(content), formats=formats) as image:
            if image.width * image.height > MAX_PIXELS or image.mode == "F":
                return None
            if image.mode.startswith("I"):
                if image.mode == "I" and image.format != "PPM":
                    return None
                scaled = np.asarray(image, np.float32) * np.float32(255 / 65535)
                return np.repeat(np.clip(np.round(scaled), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)
            return np.asarray((image.convert("RGBA") if "transparency" in image.info else image).convert("RGB"))
    except Exception:  # Pillow raises exceptions of any type
        return None


def case(pictures: list[Picture], rng: Rng, folder: Path) -> None:
    """Reads a changed image from bytes or from a file."""
    picture = pick(rng, pictures)
    change = pick(rng, _CHANGES)
    content, whole = change(picture, rng)
    path = folder / f"picture{pick(rng, IMAGE_SUFFIXES)}"
    path.write_bytes(content)
    try:
        found = decode(content)
    except UnreadableImageError as error:
        if whole:
            raise WrongAnswerError(f"{change.__name__}: {picture.format} is undamaged but rejected: {error}") from error
        on_purpose = _REFUSED_ON_PURPOSE.search(str(error))
        weak = _WEAK if "of a known format" in str(error) else ()
        if not on_purpose and pillow_pixels(content, weak) is not None:
            raise WrongAnswerError(f"{change.__name__}: Pillow reads this {picture.format}: {error}") from error
        _refused_as_file(path)
        raise
    _check(found, content, f"{change.__name__} of {picture.format}")
    if whole and not np.array_equal(found, picture.pixels):
        raise WrongAnswerError(f"{change.__name__} of {picture.format} has other pixels")
    if not np.array_equal(found, read_picture(path)):
        raise WrongAnswerError("the pixels read from the file and from its bytes differ")


def _check(found: np.ndarray, content: bytes, what: str) -> None:
    if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3 or found.size > 3 * MAX_PIXELS:
        raise WrongAnswerError(f"{what}: {found.dtype} {found.shape}")
    expected = pillow_pixels(content)
    if expected is None and content[0] in _BEFORE:
        expected = pillow_pixels(content.lstrip(_BEFORE))
    if expected is None and not content.startswith(_MENDED) and not content.lstrip(_BEFORE).startswith(_MENDED):
        raise WrongAnswerError(f"{what}: Pillow refuses it")
    if expected is not None and not np.array_equal(found, expected):
        raise WrongAnswerError(f"{what}: Pillow has other pixels")


def _refused_as_file(path: Path) -> None:
    try:
        read_picture(path)
    except UserError as error:
        if str(path) not in str(error):
            raise WrongAnswerError(f"does not name the file: {error}") from error
    else:
        raise WrongAnswerError("the bytes are rejected but the file is read")


def _any_bytes(picture: Picture, rng: Rng) -> tuple[bytes, bool]:
    return mutate_bytes(picture.content, rng), False


def _around(picture: Picture, rng: Rng) -> tuple[bytes, bool]:
    """Returns a file with the same pixels, but with bytes after it, white space before it, or more chunks."""
    content, format = picture.content, picture.format
    if format in ("TGA", "PCX"):  # their palette or footer must be at the end
        return content, True
    junk = rng.bytes(int(rng.integers(1, 300)))
    if format == "PNG" and rng.random() < 0.6:
        place = pick(rng, (33, content.rindex(b"IEND") - 4))
        name = pick(rng, (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"gAMA", b"cHRM", b"pHYs", b"sRGB", b"prVt"))
        data = pick(rng, (junk, b"", b"k\0\0" + zlib.compress(bytes(2_000_000)), b"k\0\1\0\0\0" + junk))
        new = _chunk(name, data)
        content = content[:place] + (new if rng.random() < 0.7 else new[:-4] + b"\1\2\3\4")
        content += picture.content[place:]
    if format == "JPEG" and rng.random() < 0.6:
        marker = pick(rng, (*range(0xE1, 0xEE), 0xEF, 0xFE))
        data = pick(rng, (b"", b"Exif\0\0", b"ICC_PROFILE\0", b"MPF\0MM\0*", b"Photoshop 3.0\0", b"JFXX\0")) + junk
        content = content[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data + content[2:]
    if format in ("PNG", "JPEG", "WEBP", "GIF") and rng.random() < 0.3:
        content = pick(rng, (b"\n", b"\r\n\r\n", b"\xef\xbb\xbf", b" \0\t")) + content
    return content + pick(rng, (b"", junk, b"\0" * 999, picture.content)), True


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _structure(picture: Picture, rng: Rng) -> tuple[bytes, bool]:
    """Returns a file with changed fields but valid checksums and lengths, so that parsers do not stop early."""
    change = _STRUCTURES.get(picture.format)
    return change(picture.content, rng) if change else mutate_bytes(picture.content, rng, 1), False


def _png(content: bytes, rng: Rng) -> bytes:
    chunks, place = [], 8
    while place + 8 <= len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += 12 + size
    return content[:8] + b"".join(_chunk(*each) for each in _shuffled(chunks, rng))


def _jpeg(content: bytes, rng: Rng) -> bytes:
    segments, place = [], 2
    while place + 4 <= len(content) and content[place + 1] != 0xDA:
        size = int.from_bytes(content[place + 2 : place + 4], "big")
        segments.append((content[place : place + 2], content[place + 4 : place + 2 + size]))
        place += 2 + size
    head = b"".join(
        name + struct.pack(">H", min(len(data) + 2, 65535)) + data for name, data in _shuffled(segments, rng)
    )
    return content[:2] + head + content[place:]


def _riff(content: bytes, rng: Rng) -> bytes:
    chunks, place = [], 12
    while place + 8 <= len(content):
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        chunks.append((content[place : place + 4], content[place + 8 : place + 8 + size]))
        place += 8 + size + size % 2
    body = b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in _shuffled(chunks, rng)
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _shuffled(parts: list[tuple[bytes, bytes]], rng: Rng) -> list[tuple[bytes, bytes]]:
    for _ in range(int(rng.integers(1, 4))):
        if not parts:
            break
        place = int(rng.integers(len(parts)))
        name, data = parts[place]
        match int(rng.integers(6)):
            case 0:
                parts.insert(int(rng.integers(len(parts))), parts.pop(place))
            case 1:
                parts.insert(place, parts[place])
            case 2:
                del parts[place]
            case _:
                parts[place] = name, mutate_bytes(data, rng, 1)
    return parts


_TIFF_VALUES = (0, 1, 2, 3, 8, 16, 32, 255, 256, 322, 330, 65535, 2**31, 2**32 - 1)


def _tiff(content: bytes, rng: Rng) -> bytes:
    """Changes an entry of the first TIFF directory: tag, type, count or value."""
    order = "<" if content[:2] == b"II" else ">"
    (begin,) = struct.unpack_from(f"{order}L", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, begin)
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        place = begin + 2 + 12 * int(rng.integers(count))
        field, letter = pick(rng, ((0, "H"), (2, "H"), (4, "L"), (8, "L"), (8, "H")))
        (old,) = struct.unpack_from(order + letter, changed, place + field)
        value = pick(rng, (*_TIFF_VALUES, old + 1, old * 2, len(content)))
        struct.pack_into(order + letter, changed, place + field, value % 2 ** (16 if letter == "H" else 32))
    return bytes(changed)


_STRUCTURES: dict[str, Callable[[bytes, Rng], bytes]] = {"PNG": _png, "JPEG": _jpeg, "WEBP": _riff, "TIFF": _tiff}


_SIGNATURES = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"II*\0", b"P6 9 9 255\n", b"\n\5\1\x08", b""),
    *(b"qoif", b"\x01\xda", b"\0\0\0\x20ftypavif", b"RIFF\0\0\0\0WEBP", b"\xff\x4f\xff\x51", b"\x28\0\0\0"),
)  # fmt: skip


def _two(picture: Picture, rng: Rng) -> tuple[bytes, bool]:
    """Returns a file with a shifted part, or with the signature of a different format before its bytes."""
    content = picture.content
    if rng.random() < 0.5:
        place = int(rng.integers(len(content)))
        return content[:place] + content[max(0, place - int(rng.integers(64))) :], False
    return pick(rng, _SIGNATURES) + content[int(rng.integers(16)) :], False


_CHANGES = (_any_bytes, _any_bytes, _structure, _structure, _around, _two)
FAMILY = Family("pictures", 9000, prepare, case, seconds=20)
