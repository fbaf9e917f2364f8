"""Writes the figures of images, videos and a model to a folder, for `python -m focalnet_jax.visualize`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from focalnet_jax.data.decode import LARGEST_SIDE
from focalnet_jax.data.preprocessing import FILTERS, Preprocessing
from focalnet_jax.errors import UserError
from focalnet_jax.inference import read_picture
from focalnet_jax.model.focalnet import Backbone
from focalnet_jax.system.files import write_result
from focalnet_jax.tasks.predictor import Predictor
from focalnet_jax.visualize.figures import (
    BlockMaps,
    kernels_figure,
    picture_figure,
    receptive_figure,
)
from focalnet_jax.visualize.frames import as_gif, read_frames
from focalnet_jax.visualize.maps import StageMaps, focal_kernels, modulation_maps, receptive_field
from focalnet_jax.visualize.sheets import map_sheets
from focalnet_jax.visualize.targets import (
    FIELD,
    KERNELS,
    check_sources,
    prepare_folder,
    save_arrays,
    save_figure,
    target_names,
    with_suffix,
)

_AVERAGED = 8  # number of images over which a receptive field is averaged


@dataclass(frozen=True)
class DrawOptions:
    """Selects what is drawn.

    Attributes:
      stages: indices of the stages, from 0.
      block: index of the block in each stage, from 0. Negative indices count from the last block; indices beyond the
        last block mean the last block.
      topk: number of class activations per image.
      every: distance between the drawn frames of a video; 1 draws all frames.
      most: largest number of drawn frames per video.
    """

    stages: tuple[int, ...]
    block: int = -1
    topk: int = 1
    every: int = 1
    most: int = 100


def draw(
    predictor: Predictor,
    image_files: Sequence[Path],
    videos: Sequence[Path],
    out: Path,
    options: DrawOptions,
    *,
    overwrite: bool = False,
) -> None:
    """Writes the figures of images, videos and the model to a folder.

    Args:
      predictor: the model.
      image_files: paths of images.
      videos: paths of videos, animated GIFs, or folders of frames.
      out: the folder, created if missing.
      options: stages, blocks, classes and frames to draw.
      overwrite: whether existing files are overwritten.

    Raises:
      UserError: an output file already exists or cannot be written, or an input cannot be read. Unreadable inputs are
        reported after all other inputs are drawn.
    """
    named, model = target_names([*image_files, *videos]), predictor.backbone
    stems = {name: ".gif" if path in videos else ".png" for path, name in named.items()}
    stems |= dict.fromkeys(_model_figures(model, image_files), ".png")
    check_sources(out, stems, [*image_files, *videos])
    prepare_folder(out, stems, overwrite=overwrite)
    begun, fitted, broken, moving = time.monotonic(), [], [], 0
    for done, path in enumerate(image_files, 1):
        try:
            image = fit(read_picture(path), predictor.preprocessing, multiple_of(model), path)
        except UserError as error:
            broken.append(str(error))
            continue
        draw_image(predictor, image, out / named[path], options)
        fitted = [*fitted, image][:_AVERAGED]
        left = (time.monotonic() - begun) / done * (len(image_files) - done)
        print(f"{done}/{len(image_files)}  {out / named[path]}.png  eta {left:.0f} s", flush=True)
    for path in videos:
        try:
            frames, seconds = read_frames(path, options.every, options.most)
            frames = [fit(frame, predictor.preprocessing, multiple_of(model), path) for frame in frames]
        except UserError as error:
            broken.append(str(error))
            continue
        try:
            draw_video(predictor, frames, seconds, out / named[path], options)
        except UserError as error:
            broken.append(f"{path}: {error}")
            continue
        moving += 1
        print(f"{out / named[path]}.gif  {len(frames)} frames", flush=True)
    if fitted or moving:
        _draw_model(predictor, fitted, out, options)
    if broken:
        raise UserError("; ".join(broken))


def draw_image(predictor: Predictor, image: np.ndarray, target: Path, options: DrawOptions) -> None:
    """Writes the maps of an image `[H, W, 3]` uint8 to `target`.png, and their arrays to `target`.npz."""
    images = predictor.normalize(jnp.asarray(image[None]))
    stages = modulation_maps(predictor.backbone, images)
    blocks = [block_maps(stages, stage, options.block) for stage in options.stages]
    arrays: dict[str, np.ndarray] = {"picture": image}
    for number, stage in enumerate(stages, 1):
        arrays[f"stage{number}/modulator"] = stage.modulator[:, 0]  # [D, h, w]
        arrays[f"stage{number}/gates"] = stage.gates[:, 0]  # [D, h, w, L + 1]
    activations = predictor.activations(images, options.topk)
    for activation in activations:
        arrays[f"activation/{activation.name}"] = activation.places
    save_figure(picture_figure(image, blocks, activations), arrays, target)


def draw_video(
    predictor: Predictor, frames: Sequence[np.ndarray], seconds: float, target: Path, options: DrawOptions
) -> None:
    """Writes a video's frames, next to their maps, to `target`.gif, and the arrays to `target`.npz.

    The maps are the modulator and the gates of a block of the last stage in `options`.

    Args:
      predictor: the model.
      frames: frames `[H, W, 3]` uint8, resized by `fit`.
      seconds: duration of a frame in seconds.
      target: output path without suffix.
      options: stages and block to draw.
    """
    stage = options.stages[-1]
    maps = [
        block_maps(modulation_maps(predictor.backbone, images), stage, options.block)
        for images in (predictor.normalize(jnp.asarray(frame[None])) for frame in frames)
    ]
    index, _ = _block(stage, options.block, predictor.backbone.config.depths[stage])
    key = f"stage{stage + 1}/block{index + 1}"
    arrays = {
        "frames": np.stack(frames),
        f"{key}/modulator": np.stack([each.modulator for each in maps]),  # [N, h, w]
        f"{key}/gates": np.stack([each.gates for each in maps]),  # [N, h, w, L + 1]
    }
    write_result(with_suffix(target, ".gif"), as_gif(map_sheets(frames, maps), seconds))
    save_arrays(arrays, target)


def _model_figures(model: Backbone, inputs: Sequence[Any]) -> list[str]:
    """Returns the names of the model's figures.

    Kernels are drawn if the model has depthwise convolutions, and receptive fields if there are images.
    """
    return [*([KERNELS] if model.config.use_depthwise_conv else []), *([FIELD] if inputs else [])]


def _draw_model(predictor: Predictor, inputs: Sequence[np.ndarray], out: Path, options: DrawOptions) -> None:
    model = predictor.backbone
    if FIELD in _model_figures(model, inputs):
        fields = _receptive_fields(predictor, inputs, options)
        arrays = {f"stage{stage + 1}": field for stage, field in fields.items()}  # [H, W]
        names = [f"stage {stage + 1}" for stage in fields]
        save_figure(receptive_figure(list(fields.values()), names), arrays, out / FIELD)
    if KERNELS in _model_figures(model, inputs):
        kernels = focal_kernels(model)
        arrays = {
            f"stage{stage}/level{level}": each  # [D, k, k]
            for stage, levels in enumerate(kernels, 1)
            for level, each in enumerate(levels, 1)
        }
        shown = [_shown_kernels(kernels[stage], stage, options.block) for stage in options.stages]
        names, chosen = zip(*shown, strict=True)
        save_figure(kernels_figure(chosen, names), arrays, out / KERNELS)


def _shown_kernels(levels: Sequence[np.ndarray], stage: int, block: int) -> tuple[str, list[np.ndarray]]:
    """Returns the title and the kernels of a stage, `[D, k, k]` for each level.

    If `block` is negative, these are the kernels of all D blocks, otherwise only the kernels of this block.
    """
    if block < 0:
        return f"stage {stage + 1}", list(levels)
    index, name = _block(stage, block, len(levels[0]))
    return name, [each[index : index + 1] for each in levels]


def fit(image: np.ndarray, how: Preprocessing, multiple: int, path: Path) -> np.ndarray:
    """Resizes an image `[H, W, 3]` uint8 to sides that are multiples of `multiple`, without cropping.

    The image approximately covers `how.size` and keeps its aspect ratio, or is stretched to `how.size` if the resize
    mode is "stretch".

    Raises:
      UserError: the resized image would be too large. The message names `path`.
    """
    height, width, _ = image.shape
    tall, wide = how.size
    if how.mode != "stretch":
        scale = max(tall / height, wide / width)
        tall, wide = height * scale, width * scale
    sides = [max(multiple, round(side / multiple) * multiple) for side in (wide, tall)]
    if math.prod(sides) > LARGEST_SIDE**2:
        becomes = f"resized from {width}x{height} to {sides[0]}x{sides[1]} to cover {how.size[1]}x{how.size[0]}"
        raise UserError(f"{path} is {becomes}; at most {LARGEST_SIDE**2:,} pixels are drawn: give a smaller --size")
    return np.asarray(Image.fromarray(image).resize(sides, FILTERS[how.interpolation]))


def multiple_of(model: Backbone) -> int:
    """Returns the total stride of a model. If it divides both sides of an image, no stage drops pixels."""
    return model.config.patch_size * 2 ** (len(model.stages) - 1)


def block_maps(stages: Sequence[StageMaps], stage: int, block: int) -> BlockMaps:
    """Returns the maps of one block for the first image.

    `stage` and `block` are indices from 0, and `block` may be negative or too large, see `DrawOptions`.
    """
    of_stage = stages[stage]
    index, name = _block(stage, block, len(of_stage.modulator))
    return BlockMaps(name, of_stage.modulator[index, 0], of_stage.gates[index, 0], of_stage.names)


def _block(stage: int, block: int, depth: int) -> tuple[int, str]:
    """Returns the index, from 0 to `depth` - 1, of a block selected as in `DrawOptions`, and its name in figures."""
    index = min(block, depth - 1) % depth
    return index, f"stage {stage + 1}, block {index + 1} of {depth}"


def _receptive_fields(
    predictor: Predictor, inputs: Sequence[np.ndarray], options: DrawOptions
) -> dict[int, np.ndarray]:
    """Returns the receptive field of each selected stage, averaged over the central crops of the images."""
    multiple = multiple_of(predictor.backbone)
    size = [max(side // multiple, 1) * multiple for side in predictor.preprocessing.size]
    images = predictor.normalize(jnp.asarray(np.stack([_centre(image, size) for image in inputs])))
    return {stage: receptive_field(predictor.backbone, images, stage) for stage in options.stages}


def _centre(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    (height, width), (top, left) = size, ((side - part) // 2 for side, part in zip(image.shape, size, strict=False))
    return image[top : top + height, left : left + width]
