"""Frames of a video, an animated GIF or a folder, and an animated GIF of frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from focalnet_jax.errors import UserError
from focalnet_jax.inference import find_pictures, read_picture

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
_SECONDS = 0.1  # a frame, where nothing tells


def moves(path: Path) -> bool:
    """Whether a file holds frames, by its name or, of a GIF, their number."""
    if path.suffix.lower() != ".gif":
        return path.suffix.lower() in VIDEOS
    try:
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1) > 1
    except OSError as error:
        raise UserError(f"{path} is no picture that can be read: {error}") from error


def read_frames(path: Path, every: int, most: int) -> tuple[list[np.ndarray], float]:
    """Every so many of the frames, at most so many, `[H, W, 3]` uint8, and the seconds one is shown.

    Raises:
      UserError: no frames can be read; a video without imageio and its ffmpeg.
    """
    if path.is_dir():
        frames, seconds = map(read_picture, find_pictures([path])), _SECONDS
    elif path.suffix.lower() == ".gif":
        frames, seconds = _gif_frames(path)
    else:
        frames, seconds = _video_frames(path)
    try:
        chosen = list(itertools.islice(frames, 0, every * most, every))
    except (OSError, RuntimeError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read as frames: {error}") from error
    if not chosen:
        raise UserError(f"{path} holds no frames")
    sizes = {frame.shape for frame in chosen}
    if len(sizes) > 1:
        shapes = ", ".join(f"{width}x{height}" for height, width, _ in sorted(sizes))
        raise UserError(f"{path} holds frames of different sizes ({shapes}); expected one")
    return chosen, seconds * every


def _gif_frames(path: Path) -> tuple[Iterator[np.ndarray], float]:
    image = Image.open(path)
    seconds = image.info.get("duration", 0) / 1000 or _SECONDS
    return (np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)), seconds


def _video_frames(path: Path) -> tuple[Iterator[np.ndarray], float]:
    try:
        import imageio.v3 as imageio
        import imageio_ffmpeg  # noqa: F401 - what reads them
    except ImportError as error:
        raise UserError(f"{path}: videos need imageio and ffmpeg: pip install 'focalnet_jax[viz]'") from error
    try:
        rate = imageio.immeta(path, plugin="FFMPEG").get("fps") or 1 / _SECONDS
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read as a video: {str(error).splitlines()[0]}") from error
    return imageio.imiter(path, plugin="FFMPEG"), 1 / rate


def write_gif(sheets: Sequence[Image.Image], path: Path, seconds: float) -> None:
    """An animated GIF that goes round, each frame with colours of its own."""
    milliseconds = max(20, round(1000 * seconds))
    sheets[0].save(path, "GIF", save_all=True, append_images=sheets[1:], duration=milliseconds, loop=0)
