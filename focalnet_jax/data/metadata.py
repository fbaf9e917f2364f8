"""Removes metadata, which may be damaged, from image files, and rejects TIFFs whose tags need too much memory."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from focalnet_jax.data.formats import RAW

_PNG_SIGNATURE = 8  # bytes
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # the marker that ends the data of a scan
# APP1 to APP13, APP15 and comments: EXIF, profiles, previews. APP0 (JFIF) and APP14 (Adobe) define the colour space.
_JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
_WEBP_METADATA, _WEBP_METADATA_FLAGS = (b"EXIF", b"XMP ", b"ICCP"), 0x2C
_TIFF_UNITS = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)  # bytes per value of each type
_MOST_TAG_BYTES = 2**26  # bytes by which the values of all tags of a TIFF may exceed the file's size
_SUBFILE_TYPE, _TILE_WIDTH, _TILE_LENGTH, _SUB_IFDS, _DNG_VERSION = 254, 322, 323, 330, 50706


def png_pixels_only(encoded: bytes) -> bytes:
    """Returns a PNG without its ancillary chunks, except tRNS, which Pillow needs for the pixels."""
    parts, offset = [encoded[:_PNG_SIGNATURE]], _PNG_SIGNATURE
    while offset + 8 <= len(encoded):
        length, name = int.from_bytes(encoded[offset : offset + 4]), encoded[offset + 4 : offset + 8]
        end = offset + 12 + length
        if name[:1].isupper() or name == b"tRNS":
            parts.append(encoded[offset:end])
        offset = end
        if name == b"IEND":
            break
    return b"".join(parts)


def jpeg2000_pixels_only(encoded: bytes) -> bytes:
    """Returns a JPEG 2000 up to the marker that ends its data. This marker cannot occur within the data."""
    end = encoded.find(b"\xff\xd9", encoded.find(b"\xff\x93"))
    return encoded if end < 0 else encoded[: end + 2]


def webp_pixels_only(encoded: bytes) -> bytes:
    """Returns a WebP without EXIF, XMP and colour profile, and with a correct size in its header."""
    parts, offset = [], 12
    while offset + 8 <= len(encoded):
        name, length = encoded[offset : offset + 4], int.from_bytes(encoded[offset + 4 : offset + 8], "little")
        end = offset + 8 + length + length % 2
        if name == b"VP8X":  # its first byte has flags for the other chunks
            flags = encoded[offset + 8] & ~_WEBP_METADATA_FLAGS
            parts.append(encoded[offset : offset + 8] + bytes([flags]) + encoded[offset + 9 : end])
        elif name not in _WEBP_METADATA:
            parts.append(encoded[offset:end])
        offset = end
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


def jpeg_pixels_only(encoded: bytes) -> bytes:
    """Returns a JPEG without EXIF, colour profile, previews and comments; unchanged if its segments are damaged."""
    parts, offset = [encoded[:2]], 2
    while offset + 4 <= len(encoded) and encoded[offset] == 0xFF:
        marker = encoded[offset + 1]
        if marker == _START_OF_SCAN:
            return b"".join([*parts, encoded[offset:]])
        if marker == 0xFF:  # fill byte
            offset += 1
            continue
        end = offset + 2 + int.from_bytes(encoded[offset + 2 : offset + 4])
        if marker not in _JPEG_METADATA:
            parts.append(encoded[offset:end])
        offset = end
    return encoded


def is_one_scan(jpeg: bytes) -> bool:
    """Returns whether a JPEG without metadata is sequential, not progressive, and has only one scan."""
    return scans(jpeg) == 1 and (b"\xff\xc0" in jpeg or b"\xff\xc1" in jpeg)


def scans(jpeg: bytes) -> int:
    """Returns the number of scans of a JPEG. Bytes after its end are ignored."""
    found, offset = 0, 2
    while offset + 4 <= len(jpeg) and jpeg[offset] == 0xFF and jpeg[offset + 1] != _END_OF_IMAGE:
        is_scan = jpeg[offset + 1] == _START_OF_SCAN
        found += is_scan
        offset += 1 if jpeg[offset + 1] == 0xFF else 2 + int.from_bytes(jpeg[offset + 2 : offset + 4])
        if is_scan:
            marker = _MARKER.search(jpeg, offset)
            offset = marker.start() if marker else len(jpeg)
    return found


def check_tiff(encoded: bytes, most_pixels: int) -> str:
    """Returns the reason not to decode a TIFF, or an empty string if there is no such reason.

    Pillow copies the value of every tag, which may be as large as the file, and allocates tiles of any size. It
    would decode only the preview of a camera's raw file. This function reads only the tags of the first page.
    """
    tags, size = {}, 0
    for tag, bytes_, value in _tags(encoded):
        tags[tag] = value
        size += bytes_
    if size > len(encoded) + _MOST_TAG_BYTES:
        return f"its tags have {size:,} bytes, more than the file"
    if tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_LENGTH, 0) > most_pixels:
        return f"it has tiles of {tags[_TILE_WIDTH]}x{tags[_TILE_LENGTH]} pixels; at most {most_pixels:,} are decoded"
    if _DNG_VERSION in tags or (tags.get(_SUBFILE_TYPE, 0) & 1 and _SUB_IFDS in tags):
        return f"it is {RAW}"
    return ""


def _tags(encoded: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields the number of each tag of the first page, the size of its values in bytes, and its value.

    The size is 0 if it exceeds the file. The value is 0 unless it is a single value that is stored in the tag itself.
    """
    order = "<" if encoded[:2] == b"II" else ">"
    big = encoded[2:4] in (b"\0+", b"+\0")
    try:
        if big:
            (offset,) = struct.unpack_from(f"{order}Q", encoded, 8)
            (count,), offset, layout = struct.unpack_from(f"{order}Q", encoded, offset), offset + 8, f"{order}HHQ8s"
        else:
            (offset,) = struct.unpack_from(f"{order}L", encoded, 4)
            (count,), offset, layout = struct.unpack_from(f"{order}H", encoded, offset), offset + 2, f"{order}HHL4s"
        for number in range(min(count, 2**16)):
            tag, kind, values, inside = struct.unpack_from(layout, encoded, offset + number * struct.calcsize(layout))
            unit = _TIFF_UNITS[kind] if kind < len(_TIFF_UNITS) else 0
            letter = {1: "B", 2: "H", 4: "L", 8: "Q"}.get(unit, "B")
            whole = values == 1 and unit <= len(inside)
            size = unit * values if unit * values <= len(encoded) else 0  # Pillow skips values that are cut off
            yield tag, size, struct.unpack_from(order + letter, inside)[0] if whole else 0
    except (struct.error, OverflowError):  # Pillow reports the error
        return
