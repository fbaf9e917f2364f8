"""Reads the heights and widths of images, from their headers if possible."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from focalnet_jax.data.decode import PILLOWS_ERRORS, Picture, UnreadableImageError, decode
from focalnet_jax.errors import UserError

_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")  # Pillow's formats whose header has the size of the decoded pixels
_THREADS = 16  # reading headers mostly waits for the storage


def image_sizes(source: Any) -> list[tuple[int, int]]:
    """Returns the height and width of the image of each example `(image, ...)` of a source.

    Raises:
      UserError: an image cannot be read; the message names the image.
      RunFailedError: the storage fails.
    """

    def size(index: int) -> tuple[int, int]:
        try:
            return image_size(source[index][0])
        except UnreadableImageError as error:
            raise UserError(f"cannot read image {source.name(index)} ({error}): repair or remove it") from error

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(size, range(len(source))))


def image_size(picture: Picture) -> tuple[int, int]:
    """Returns the height and width of the pixels that `decode` returns, without decoding them if possible.

    Raises:
      UnreadableImageError: see `decode`.
      RunFailedError: the storage fails.
    """
    if not isinstance(picture, np.ndarray):
        try:
            with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture, formats=_FORMATS) as image:
                return image.height, image.width
        except PILLOWS_ERRORS:  # another format, or damaged metadata, which `decode` ignores
            pass
    return decode(picture).shape[:2]
