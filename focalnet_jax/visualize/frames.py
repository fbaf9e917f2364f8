"""Reads frames of a video, an animated GIF or a folder, and writes animated GIFs."""

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
_LARGEST = 2**16 - 1  # largest side of a GIF in pixels
_SECONDS = 0.1  # duration of a frame if the file does not specify it


def is_video(path: Path) -> bool:
    """Returns whether a file has the suffix of a video, or is a readable GIF with several frames."""
    if path.suffix.lower() != ".gif":
        return path.suffix.lower() in VIDEOS
    try:
        with Image.open(path, formats=("GIF",)) as image:
            return getattr(image, "n_frames", 1) > 1
    except Exception:  # Pillow raises any type for damaged bytes; reading it as an image reports the error
        return False


def read_frames(path: Path, every: int, most: int) -> tuple[list[np.ndarray], float]:
    """Returns frames `[H, W, 3]` uint8, and the duration of each returned frame in seconds.

    Args:
      path: a video, an animated GIF or a folder of images.
      every: distance between the returned frames; 1 returns all frames.
      most: largest number of frames returned.

    Raises:
      UserError: no frames can be read, they differ in size, or imageio or its ffmpeg is not installed.
    """
    reader = _folder_frames if path.is_dir() else _gif_frames if path.suffix.lower() == ".gif" else _video_frames
    try:
        frames, seconds = reader(path)
        chosen = list(itertools.islice(frames, 0, every * most, every))
    except (UserError, RunFailedError, MemoryError):
        raise
    except Exception as error:  # decoders raise any type for damaged bytes
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"cannot read frames from {path}: {reason}") from error
    if not chosen:
        raise UserError(f"{path} contains no frames; expected a video, an animated GIF or a folder of images")
    sizes = {frame.shape for frame in chosen}
    if len(sizes) > 1:
        shapes = ", ".join(f"{width}x{height}" for height, width, _ in sorted(sizes))
        raise UserError(f"{path} has frames of different sizes ({shapes}); expected one size: crop or resize them")
    return chosen, seconds * every


def _folder_frames(path: Path) -> tuple[Iterator[np.ndarray], float]:
    return map(read_picture, sorted(find_pictures([path]), key=by_number)), _SECONDS


def by_number(path: Path) -> tuple[list[str | int], str]:
    """Returns a sort key for names of frames that orders numbers by value, so that 2 comes before 10."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], str(path)


def _gif_frames(path: Path) -> tuple[Iterator[np.ndarray], float]:
    image = Image.open(path, formats=("GIF",))  # only GIF, because Pillow starts other programs for some formats
    if image.width * image.height > MAX_PIXELS:
        raise UserError(f"{path} has frames of {image.width}x{image.height} pixels; at most {MAX_PIXELS:,} are decoded")
    seconds = image.info.get("duration", 0) / 1000 or _SECONDS
    return (np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)), seconds


def _video_frames(path: Path) -> tuple[Iterator[np.ndarray], float]:
    try:
        import imageio.v3 as imageio
        import imageio_ffmpeg  # noqa: F401 - reads videos for imageio
    except ImportError as error:
        raise UserError(f"{path}: videos need imageio and ffmpeg: pip install 'focalnet_jax[viz]'") from error
    # Otherwise, imageio runs Python code in a fork before it starts ffmpeg, and JAX warns because of its threads.
    os.environ.setdefault("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", "1")
    rate = imageio.immeta(path, plugin="FFMPEG").get("fps") or 1 / _SECONDS
    return imageio.imiter(path, plugin="FFMPEG"), 1 / rate


def as_gif(sheets: Sequence[Image.Image], seconds: float) -> bytes:
    """Encodes frames, each shown for `seconds`, as an animated GIF that repeats forever.

    Raises:
      UserError: the frames are too large.
    """
    if max(sheets[0].size) > _LARGEST:
        size = "x".join(map(str, sheets[0].size))
        raise UserError(f"its maps have {size} pixels; a GIF has at most {_LARGEST} per side: give a smaller --size")
    written, milliseconds = io.BytesIO(), max(20, round(1000 * seconds))
    sheets[0].save(written, "GIF", save_all=True, append_images=sheets[1:], duration=milliseconds, loop=0)
    return written.getvalue()
