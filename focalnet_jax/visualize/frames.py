"""Frames of a video, an animated GIF or a folder, and an animated GIF of frames."""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from focalnet_jax.data.decode import MAX_PIXELS
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.inference import find_pictures, read_picture

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
_LARGEST = 2**16 - 1  # pixels of a GIF's side
_SECONDS = 0.1  # a frame, where nothing tells


def moves(path: Path) -> bool:
    """Whether a file holds frames, by its name or, of a GIF that can be read, their number."""
    if path.suffix.lower() != ".gif":
        return path.suffix.lower() in VIDEOS
    try:
        with Image.open(path, formats=("GIF",)) as image:
            return getattr(image, "n_frames", 1) > 1
    except Exception:  # Pillow raises all kinds over damaged bytes; who reads it as a picture says which
        return False


def read_frames(path: Path, every: int, most: int) -> tuple[list[np.ndarray], float]:
    """Every so many of the frames, at most so many, `[H, W, 3]` uint8, and the seconds one is shown.

    Raises:
      UserError: no frames can be read; a video without imageio and its ffmpeg.
    """
    reader = _folder_frames if path.is_dir() else _gif_frames if path.suffix.lower() == ".gif" else _video_frames
    try:
        frames, seconds = reader(path)
        chosen = list(itertools.islice(frames, 0, every * most, every))
    except (UserError, RunFailedError, MemoryError):
        raise
    except Exception as error:  # what decodes raises all kinds over damaged bytes
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"{path} cannot be read as frames: {reason}") from error
    if not chosen:
        raise UserError(f"{path} holds no frames")
    sizes = {frame.shape for frame in chosen}
    if len(sizes) > 1:
        shapes = ", ".join(f"{width}x{height}" for height, width, _ in sorted(sizes))
        raise UserError(f"{path} holds frames of different sizes ({shapes}); expected one: crop or resize them")
    return chosen, seconds * every


def _folder_frames(path: Path) -> tuple[Iterator[np.ndarray], float]:
    return map(read_picture, sorted(find_pictures([path]), key=by_number)), _SECONDS


def by_number(path: Path) -> tuple[list[str | int], str]:
    """What to sort names of frames by: their numbers as such, so that 2 comes before 10."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], str(path)


def _gif_frames(path: Path) -> tuple[Iterator[np.ndarray], float]:
    image = Image.open(path, formats=("GIF",))  # by its name alone it might be one of those that start programs
    if image.width * image.height > MAX_PIXELS:
        raise UserError(f"{path} has frames of {image.width}x{image.height} pixels; at most {MAX_PIXELS:,} are decoded")
    seconds = image.info.get("duration", 0) / 1000 or _SECONDS
    return (np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)), seconds


def _video_frames(path: Path) -> tuple[Iterator[np.ndarray], float]:
    try:
        import imageio.v3 as imageio
        import imageio_ffmpeg  # noqa: F401 - what reads them
    except ImportError as error:
        raise UserError(f"{path}: videos need imageio and ffmpeg: pip install 'focalnet_jax[viz]'") from error
    # Else ffmpeg is started by a fork that runs Python, against which JAX's threads warn.
    os.environ.setdefault("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", "1")
    rate = imageio.immeta(path, plugin="FFMPEG").get("fps") or 1 / _SECONDS
    return imageio.imiter(path, plugin="FFMPEG"), 1 / rate


def as_gif(sheets: Sequence[Image.Image], seconds: float) -> bytes:
    """An animated GIF that goes round, each frame with colours of its own; `UserError` for more than it can hold."""
    if max(sheets[0].size) > _LARGEST:
        size = "x".join(map(str, sheets[0].size))
        raise UserError(f"its maps are {size} pixels, and a GIF has at most {_LARGEST} a side: give a smaller --size")
    written, milliseconds = io.BytesIO(), max(20, round(1000 * seconds))
    sheets[0].save(written, "GIF", save_all=True, append_images=sheets[1:], duration=milliseconds, loop=0)
    return written.getvalue()
