"""Decodes pictures to `[H, W, 3]` uint8."""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError, features

from focalnet_jax.data.formats import recognise
from focalnet_jax.data.metadata import (
    check_tiff,
    is_one_scan,
    jpeg2000_pixels_only,
    jpeg_pixels_only,
    png_pixels_only,
    scans,
    webp_pixels_only,
)
from focalnet_jax.errors import RunFailedError, UserError

MAX_PIXELS = 100_000_000  # a larger picture is refused before it is decoded: it would take the host's memory
MAX_BYTES = 2**30  # of a file
MAX_SCANS = 1000  # of a progressive JPEG, which has ten or so: each takes the time of a whole picture
LARGEST_SIDE = 4096  # of a picture that a model is to look at: what it computes of a larger one would, too

# What Pillow's decoders raise over damaged bytes.
_PILLOWS_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, RuntimeError)
_PILLOWS_ERRORS += (AttributeError, AssertionError, struct.error, zlib.error, Image.DecompressionBombError)
_START_OF_SCAN, _END_OF_JPEG = b"\xff\xda", b"\xff\xd9"
_PIXELS_ONLY = {"PNG": png_pixels_only, "WEBP": webp_pixels_only, "JPEG2000": jpeg2000_pixels_only}

Picture = np.ndarray | bytes | str | Path  # decoded, encoded, or the file it lies in


class UnreadableImageError(UserError):
    """A picture that cannot be decoded. The message says why, not which: the caller knows its name."""


def decode(picture: Picture) -> np.ndarray:
    """Returns a picture as `[H, W, 3]` uint8.

    Grey, palette and CMYK become RGB, transparency is dropped, 16-bit grey is scaled to 8 bits. Of animations and files
    of several pages the first picture is decoded. EXIF orientation is not applied, as in torchvision and timm. Text,
    colour profiles, EXIF and trailing bytes are not looked at, so it does not matter whether they are damaged.

    Raises:
      UnreadableImageError: it cannot be read or decoded, or has more than `MAX_PIXELS`. Names what the file is instead.
    """
    if isinstance(picture, np.ndarray):
        return picture
    encoded = picture if isinstance(picture, bytes) else _read(picture)
    pixels = _decode_jpeg(encoded)
    return _decode_any(encoded) if pixels is None else pixels


def _read(path: str | Path) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISFIFO(status.st_mode):
                raise UnreadableImageError("it is a device, not a file")
            if status.st_size > MAX_BYTES:
                raise UnreadableImageError(f"it has {status.st_size:,} bytes; at most {MAX_BYTES:,} are read")
            return file.read()
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise UnreadableImageError(error.strerror or str(error)) from error
    except OSError as error:  # the machine's fault, not the picture's: to go on without it would change the run
        raise RunFailedError(f"cannot read {path}: {error.strerror}; the same command resumes the run") from error


def _decode_jpeg(encoded: bytes) -> np.ndarray | None:
    """The pixels that Pillow gives, sooner: both use libjpeg-turbo. None for bytes that are left to Pillow."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(encoded)
        if space in ("YCbCr", "Gray") and height * width <= MAX_PIXELS and encoded.count(_START_OF_SCAN) <= MAX_SCANS:
            return simplejpeg.decode_jpeg(encoded, "RGB", strict=True)
    except ValueError:
        pass
    return None


def _decode_any(encoded: bytes) -> np.ndarray:
    kind, encoded = recognise(encoded)
    if kind is None or kind.format is None:
        raise UnreadableImageError(f"it is {kind}" if kind else "it is no image of a known format")
    if kind.format not in _installed():
        raise UnreadableImageError(f"it is {kind.title}, which needs a newer Pillow: pip install --upgrade pillow")
    if kind.format == "JPEG":
        encoded = jpeg_pixels_only(encoded)
        if scans(encoded) > MAX_SCANS:
            raise UnreadableImageError(f"it has {scans(encoded)} scans; at most {MAX_SCANS} are decoded")
    if kind.format == "TIFF" and (refusal := check_tiff(encoded, MAX_PIXELS)):
        raise UnreadableImageError(refusal)
    try:
        return np.asarray(_open_rgb(encoded, kind.format))
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise all kinds over damaged bytes
        pixels = _decode_damaged(encoded, kind.format)
        if pixels is not None:
            return pixels
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "its header is damaged, or of a kind that Pillow does not read"
        raise UnreadableImageError(f"it is {kind.title} that cannot be decoded: {reason}") from error


def _decode_damaged(encoded: bytes, format: str) -> np.ndarray | None:
    """The pixels of a file that Pillow refuses although all of them are there; None if they are not."""
    try:
        if format in _PIXELS_ONLY:
            return np.asarray(_open_rgb(_PIXELS_ONLY[format](encoded), format))
        if format == "JPEG" and is_one_scan(encoded):  # cut off behind its last pixel: a decoder warns of any before
            return _decode_jpeg(encoded + _END_OF_JPEG)
    except (UnreadableImageError, MemoryError):
        raise
    except _PILLOWS_ERRORS:  # of the second attempt: the caller gives the reason of the first
        return None
    return None


def _open_rgb(encoded: bytes, format: str) -> Image.Image:
    with Image.open(io.BytesIO(encoded), formats=(format,)) as image:
        most = MAX_PIXELS // 2 if format == "JPEG2000" else MAX_PIXELS  # whose decoder takes 32 bits a channel
        if image.width * image.height > most:
            raise UnreadableImageError(f"it has {image.width}x{image.height} pixels; at most {most:,} are decoded")
        if image.mode == "F" or (image.mode == "I" and format != "PPM"):
            raise UnreadableImageError("it has 32 bits a pixel, whose range is not known: use 8 or 16 bits")
        if image.mode.startswith("I"):  # Pillow's name for 16 bits, and in PPM for 9 to 16, scaled to 16
            grey = np.asarray(image, dtype=np.float32) * (255 / 65535)
            return Image.fromarray(np.clip(np.round(grey), 0, 255).astype(np.uint8)).convert("RGB")
        if "transparency" in image.info:  # by way of RGBA, as Pillow asks for palettes
            image = image.convert("RGBA")
        return image.convert("RGB")


@cache
def _installed() -> frozenset[str]:
    """The formats that the installed Pillow has a decoder for: AVIF needs Pillow 11.3."""
    Image.init()
    readable = set(Image.OPEN)
    if not features.check("jpg_2000"):
        readable.discard("JPEG2000")
    if "AVIF" in readable and not features.check("avif"):
        readable.discard("AVIF")
    return frozenset(readable)
