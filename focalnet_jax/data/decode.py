"""Decodes images to `[H, W, 3]` uint8."""

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

from focalnet_jax.data.formats import detect_type
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

MAX_PIXELS = 100_000_000  # larger images are rejected before decoding, because they would fill the host's memory
MAX_BYTES = 2**30  # size of the largest file
MAX_SCANS = 1000  # of a progressive JPEG, which usually has ten; decoding a scan takes as long as a whole image
LARGEST_SIDE = 4096  # largest side of a model's input in pixels; activations of larger inputs would fill the memory

# Exceptions that Pillow's decoders raise for damaged bytes.
PILLOWS_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, RuntimeError)
PILLOWS_ERRORS += (AttributeError, AssertionError, struct.error, zlib.error, Image.DecompressionBombError)
_END_OF_JPEG = b"\xff\xd9"
_PIXELS_ONLY = {"PNG": png_pixels_only, "WEBP": webp_pixels_only, "JPEG2000": jpeg2000_pixels_only}

Picture = np.ndarray | bytes | str | Path  # an image: a decoded array, encoded bytes, or the path of a file


class UnreadableImageError(UserError):
    """Raised if an image cannot be decoded. The message is the reason; the caller adds the name of the image."""


def decode(picture: Picture) -> np.ndarray:
    """Decodes an image to `[H, W, 3]` uint8. An array is returned unchanged.

    Grey, palette and CMYK images are converted to RGB, transparency is dropped, 16-bit grey is scaled to 8 bits.
    Animations and files with several pages are decoded to their first image. Like in torchvision and timm, the EXIF
    orientation is not applied, except in TIFFs, where Pillow applies it. Text, colour profiles, other EXIF and trailing
    bytes are ignored, even if they are damaged.

    Raises:
      UnreadableImageError: the image cannot be read or decoded, or exceeds `MAX_PIXELS` or `MAX_SCANS`.
      RunFailedError: the storage fails.
    """
    if isinstance(picture, np.ndarray):
        return picture
    encoded = picture if isinstance(picture, bytes) else read_file(picture)
    pixels = _decode_jpeg(encoded)
    return _decode_any(encoded) if pixels is None else pixels


def read_file(path: str | Path) -> bytes:
    """Returns the content of an image file.

    Raises:
      UnreadableImageError: the file is missing, is a folder or a device, is not readable, or exceeds `MAX_BYTES`.
      RunFailedError: the storage fails.
    """
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
    except OSError as error:  # the storage failed: continuing without the image would change the run
        raise RunFailedError(f"cannot read {path}: {error.strerror}; start the command again") from error


def _decode_jpeg(encoded: bytes) -> np.ndarray | None:
    """Decodes a JPEG faster than Pillow, or returns None for bytes that only Pillow can decode.

    The pixels equal Pillow's, because simplejpeg and Pillow both use libjpeg-turbo.
    """
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(encoded)
        if space in ("YCbCr", "Gray") and height * width <= MAX_PIXELS and _most_scans(encoded) <= MAX_SCANS:
            return simplejpeg.decode_jpeg(encoded, "RGB", strict=True)
    except ValueError:
        pass
    return None


def _most_scans(encoded: bytes) -> int:
    """Returns an upper bound of the number of scans, in a fraction of the time of `bytes.count`."""
    values = np.frombuffer(encoded, np.uint8)
    return np.count_nonzero((values[:-1] == 0xFF) & (values[1:] == 0xDA))


def _decode_any(encoded: bytes) -> np.ndarray:
    kind, encoded = detect_type(encoded)
    if kind is None or kind.format is None:
        raise UnreadableImageError(f"it is {kind}" if kind else "it is not an image of a known format")
    if kind.format not in _installed():
        raise UnreadableImageError(f"it is {kind.title}, which needs a newer Pillow: pip install --upgrade pillow")
    if kind.format == "JPEG":
        encoded = jpeg_pixels_only(encoded)
        if scans(encoded) > MAX_SCANS:
            raise UnreadableImageError(f"it has {scans(encoded)} scans; at most {MAX_SCANS} are decoded")
    if kind.format == "TIFF" and (problem := check_tiff(encoded, MAX_PIXELS)):
        raise UnreadableImageError(problem)
    try:
        return np.asarray(_open_rgb(encoded, kind.format))
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise many types for damaged bytes
        pixels = _decode_damaged(encoded, kind.format)
        if pixels is not None:
            return pixels
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "its header is damaged, or of a kind that Pillow does not support"
        raise UnreadableImageError(f"it is {kind.title} that cannot be decoded: {reason}") from error


def _decode_damaged(encoded: bytes, format: str) -> np.ndarray | None:
    """Decodes a file that Pillow rejects although its pixels are complete, such as one with damaged metadata.

    Returns None if that fails too.
    """
    try:
        if format in _PIXELS_ONLY:
            return np.asarray(_open_rgb(_PIXELS_ONLY[format](encoded), format))
        if format == "JPEG" and is_one_scan(encoded):  # may lack only its end; simplejpeg raises if pixels are missing
            return _decode_jpeg(encoded + _END_OF_JPEG)
    except (UnreadableImageError, MemoryError):
        raise
    except PILLOWS_ERRORS:  # the caller reports the error of the first attempt
        return None
    return None


def _open_rgb(encoded: bytes, format: str) -> Image.Image:
    with Image.open(io.BytesIO(encoded), formats=(format,)) as image:
        most = MAX_PIXELS // 2 if format == "JPEG2000" else MAX_PIXELS  # decoded with 32 bits per channel
        if image.width * image.height > most:
            raise UnreadableImageError(f"it has {image.width}x{image.height} pixels; at most {most:,} are decoded")
        if image.mode == "F" or (image.mode == "I" and format != "PPM"):
            raise UnreadableImageError("it has 32 bits per pixel in an unknown range: convert it to 8 or 16 bits")
        if image.mode.startswith("I"):  # Pillow's mode for 16 bits; PPM of 9 to 16 bits is scaled to 16
            grey = np.asarray(image, dtype=np.float32) * (255 / 65535)
            return Image.fromarray(np.clip(np.round(grey), 0, 255).astype(np.uint8)).convert("RGB")
        if "transparency" in image.info:  # converted by way of RGBA, which Pillow requires for palettes
            image = image.convert("RGBA")
        return image.convert("RGB")


@cache
def _installed() -> frozenset[str]:
    """Returns the formats that the installed Pillow can decode. AVIF needs Pillow 11.3."""
    Image.init()
    readable = set(Image.OPEN)
    if not features.check("jpg_2000"):
        readable.discard("JPEG2000")
    if "AVIF" in readable and not features.check("avif"):
        readable.discard("AVIF")
    return frozenset(readable)
