"""Opens masks in the file formats that keep the number of every pixel, PNG and TIFF."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from focalnet_jax.data.decode import MAX_PIXELS, PILLOWS_ERRORS, UnreadableImageError
from focalnet_jax.data.formats import detect_type
from focalnet_jax.data.metadata import check_tiff, png_pixels_only

COLOURED = ("RGB", "RGBA", "LA")  # Pillow's modes of masks that store colours
_GREY = ("1", "L", "I;16", "I;16B", "I")  # Pillow's modes of grey masks
_FORMATS = ("PNG", "TIFF")  # formats that keep every number; programs that write GIFs renumber the colours
_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF
_BLACK_IS_ZERO, _RGB, _PALETTE = 1, 2, 3  # values of the tag _PHOTOMETRIC


class UnreadableMaskError(UnreadableImageError):
    """Raised if a mask cannot be used. The message is the reason; the caller adds the name of the image."""


def open_mask(encoded: bytes, *, as_colours: bool = False) -> Image.Image:
    """Returns a decoded mask. Its mode is P or one of `_GREY` if it stores numbers, one of `COLOURED` for colours.

    Args:
      encoded: content of a file.
      as_colours: whether to return grey PNGs with 2 or 4 bits as grey values from 0 to 255, instead of their stored
        numbers.

    Raises:
      UnreadableMaskError: the mask cannot be decoded or is too large, or its format is not suitable for masks.
    """
    kind, encoded = detect_type(encoded)
    if kind is None or kind.format is None:
        raise UnreadableMaskError(f"it is {kind}" if kind else "it is not an image of a known format")
    if kind.format not in _FORMATS:
        raise UnreadableMaskError(f"it is {kind.title}, a format that may change labels: store masks as PNG")
    if kind.format == "TIFF" and (problem := check_tiff(encoded, MAX_PIXELS)):
        raise UnreadableMaskError(problem)
    try:
        return _open(encoded, kind.format, as_colours)
    except (UnreadableMaskError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise many types for damaged bytes
        if kind.format == "PNG":
            try:
                return _open(png_pixels_only(encoded), kind.format, as_colours)  # its metadata may be damaged
            except UnreadableMaskError:
                raise
            except PILLOWS_ERRORS:
                pass
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableMaskError(f"it is {kind.title} that cannot be decoded: {reason}") from error


def _open(encoded: bytes, format: str, as_colours: bool) -> Image.Image:
    with Image.open(io.BytesIO(encoded), formats=(format,)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableMaskError(f"it has {image.width}x{image.height} pixels; at most {MAX_PIXELS:,} are decoded")
        deep = format == "PNG" and encoded[24] > 8  # bits per channel in the header
        if image.mode not in (*_GREY, *COLOURED, "P") or (deep and image.mode in COLOURED):
            raise UnreadableMaskError(
                f"its pixels are of an unsupported kind ({'16 bits per channel' if deep else image.mode}): store masks "
                "as PNG with 8 bits, grey, palette or RGB"
            )
        if format == "TIFF":
            _check_tags(image)
        image.load()
        if format == "PNG" and image.mode == "L" and encoded[24] in (2, 4) and not as_colours:
            scale = 255 // (2 ** encoded[24] - 1)
            return Image.fromarray(np.asarray(image) // scale)
        return image


def _check_tags(image: Image.Image) -> None:
    """Raises `UnreadableMaskError` if Pillow changes the stored numbers of a TIFF."""
    bits, photometric = image.tag_v2.get(_BITS, (1,)), image.tag_v2.get(_PHOTOMETRIC)
    if photometric not in (_BLACK_IS_ZERO, _RGB, _PALETTE) or (image.mode != "1" and set(bits) - {8, 16, 32}):
        raise UnreadableMaskError(
            f"it is a TIFF with {bits[0]} bits per pixel and photometric interpretation {photometric}: store masks as "
            "PNG"
        )
