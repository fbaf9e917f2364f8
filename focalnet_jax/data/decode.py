"""Bytes to a picture, `[H, W, 3]` uint8."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from focalnet_jax.errors import RunFailedError, UserError

MAX_PIXELS = 100_000_000  # a larger picture is refused before it is decoded: it would take the host's memory
LARGEST_SIDE = 4096  # of a picture that a model is to look at: what it computes of a larger one would, too

# What Pillow may take the bytes for. Some of its other formats start programs, such as Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # MPO is opened as JPEG

Picture = np.ndarray | bytes | str | Path  # decoded, encoded, or the file it lies in


class UnreadableImageError(UserError):
    """A picture that cannot be decoded. It does not name itself: who reads it knows its name."""


def decode(picture: Picture) -> np.ndarray:
    """A picture as `[H, W, 3]` uint8.

    Grey, palette and CMYK become RGB, transparency is dropped, 16-bit grey is scaled to 8 bits. EXIF orientation is not
    applied, as in torchvision and timm.

    Raises:
      UnreadableImageError: it cannot be read or decoded, or has more than `MAX_PIXELS`.
    """
    if isinstance(picture, np.ndarray):
        return picture
    encoded = picture if isinstance(picture, bytes) else _read(picture)
    pixels = _decode_jpeg(encoded)
    return np.asarray(_decode_any(encoded)) if pixels is None else pixels


def _read(path: str | Path) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise UnreadableImageError(error.strerror or str(error)) from error
    except OSError as error:  # the machine's fault, not the picture's: to go on without it would change the run
        raise RunFailedError(f"cannot read {path}: {error.strerror}; the same command goes on where it was") from error


def _decode_jpeg(encoded: bytes) -> np.ndarray | None:
    """The pixels Pillow gives, sooner: both are libjpeg-turbo. None for what only Pillow may judge."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(encoded)
        if space in ("YCbCr", "Gray") and height * width <= MAX_PIXELS:
            return simplejpeg.decode_jpeg(encoded, "RGB", strict=True)
    except ValueError:
        pass
    return None


def _decode_any(encoded: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImageError(
                    f"it has {image.width}x{image.height} pixels; at most {MAX_PIXELS:,} are decoded"
                )
            if image.mode in ("I", "F"):
                raise UnreadableImageError("it has 32 bits a pixel, whose range is not known: use 8 or 16 bits")
            if image.mode.startswith("I;16"):
                grey = np.asarray(image, dtype=np.float32) * (255 / 65535)
                return Image.fromarray(np.clip(np.round(grey), 0, 255).astype(np.uint8)).convert("RGB")
            if "transparency" in image.info:  # by way of RGBA, as Pillow asks for palettes
                image = image.convert("RGBA")
            return image.convert("RGB")
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise all kinds over damaged bytes
        no_image = isinstance(error, UnidentifiedImageError)
        raise UnreadableImageError("it is no image" if no_image else str(error)) from error
