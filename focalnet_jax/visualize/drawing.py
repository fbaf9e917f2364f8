"""From files to figures: what `python -m focalnet_jax.visualize` does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from focalnet_jax.data.mixing import normalize
from focalnet_jax.errors import UserError
from focalnet_jax.inference import Classifier, read_picture
from focalnet_jax.model import FocalNet
from focalnet_jax.visualize.figures import (
    Activation,
    BlockMaps,
    kernels_figure,
    picture_figure,
    receptive_figure,
)
from focalnet_jax.visualize.frames import read_frames, write_gif
from focalnet_jax.visualize.maps import StageMaps, class_activation, focal_kernels, modulation_maps, receptive_field
from focalnet_jax.visualize.sheets import map_sheets

_DOTS = 110  # an inch
_AVERAGED = 8  # pictures of a receptive field


@dataclass(frozen=True)
class Options:
    """What to draw: stages and blocks counted from 0, the block from the end where it is negative."""

    size: int
    stages: tuple[int, ...]
    block: int = -1
    topk: int = 1
    every: int = 1
    most: int = 100


def draw(
    classifier: Classifier,
    pictures: Sequence[Path],
    videos: Sequence[Path],
    out: Path,
    options: Options,
    *,
    overwrite: bool = False,
) -> None:
    """Writes the figures of pictures and videos, and those of the model, into a folder.

    Raises:
      UserError: a file stands in the folder already, or, after all others are drawn, pictures cannot be read.
    """
    named = _named([*pictures, *videos])
    files = [out / f"{name}{suffix}" for path, name in named.items() for suffix in _suffixes(path in videos)]
    files += [out / "kernels.png"] if classifier.model.config.use_depthwise_conv else []
    files += [out / "receptive_field.png"] if pictures else []
    if (there := [file for file in files if file.exists()]) and not overwrite:
        raise UserError(f"{there[0]} exists already; choose another --out or give --overwrite")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make --out {out}: {error.strerror}") from error
    model = classifier.model
    begun, fitted, broken = time.monotonic(), [], []
    for done, path in enumerate(pictures, 1):
        try:
            picture = fit(read_picture(path), options.size, multiple_of(model))
        except UserError as error:
            broken.append(str(error))
            continue
        draw_picture(classifier, picture, out / named[path], options)
        fitted = [*fitted, picture][:_AVERAGED]
        left = (time.monotonic() - begun) / done * (len(pictures) - done)
        print(f"{done}/{len(pictures)}  {out / named[path]}.png  eta {left:.0f} s", flush=True)
    if broken and not fitted and not videos:
        raise UserError("; ".join(broken))
    if fitted:
        _save(receptive_figure(_receptive_fields(model, fitted, options.size)), out / "receptive_field.png")
    for path in videos:
        count = draw_video(classifier, path, out / f"{named[path]}.gif", options)
        print(f"{out / named[path]}.gif  {count} frames", flush=True)
    if model.config.use_depthwise_conv:
        _save(kernels_figure(focal_kernels(model)), out / "kernels.png")
    if broken:
        raise UserError("; ".join(broken))


def draw_picture(classifier: Classifier, picture: np.ndarray, target: Path, options: Options) -> None:
    """`target`.png and `target`.npz of a picture `[H, W, 3]` uint8."""
    images = normalize(jnp.asarray(picture[None]))
    stages = modulation_maps(classifier.model, images)
    blocks = [block_maps(stages, stage, options.block) for stage in options.stages]
    arrays: dict[str, np.ndarray] = {"picture": picture}
    for number, stage in enumerate(stages, 1):
        arrays[f"stage{number}/modulator"] = stage.modulator[:, 0]  # [D, h, w]
        arrays[f"stage{number}/gates"] = stage.gates[:, 0]  # [D, h, w, L + 1]
    activations = _activations(classifier, images, options.topk)
    for activation in activations:
        arrays[f"activation/{activation.label}"] = activation.places
    _save(picture_figure(picture, blocks, activations), target.with_name(f"{target.name}.png"))
    np.savez_compressed(target.with_name(f"{target.name}.npz"), **arrays)


def draw_video(classifier: Classifier, path: Path, target: Path, options: Options) -> int:
    """An animation of a video's frames beside the modulator and the gates of the last of the stages; how many."""
    frames, seconds = read_frames(path, options.every, options.most)
    frames = [fit(frame, options.size, multiple_of(classifier.model)) for frame in frames]
    stage = options.stages[-1]
    maps = [
        block_maps(modulation_maps(classifier.model, normalize(jnp.asarray(frame[None]))), stage, options.block)
        for frame in frames
    ]
    sheets = map_sheets(frames, maps)
    write_gif(sheets, target, seconds)
    return len(sheets)


def fit(picture: np.ndarray, size: int, multiple: int) -> np.ndarray:
    """A picture `[H, W, 3]` with its shorter side about `size` and both multiples of `multiple`, nothing cut off."""
    height, width, _ = picture.shape
    scale = size / min(height, width)
    sides = [max(multiple, round(side * scale / multiple) * multiple) for side in (width, height)]
    return np.asarray(Image.fromarray(picture).resize(sides, Image.Resampling.BICUBIC))


def multiple_of(model: FocalNet) -> int:
    """What a picture's sides are multiples of where no stage of the model cuts any of it off."""
    return model.config.patch_size * 2 ** (len(model.stages) - 1)


def block_maps(stages: Sequence[StageMaps], stage: int, block: int) -> BlockMaps:
    """Those of one block and the first picture, both counted from 0; of a stage with fewer blocks, its last."""
    of_stage = stages[stage]
    depth = len(of_stage.modulator)
    place = min(block, depth - 1) % depth  # a shorter stage's last
    maps = of_stage.modulator[place, 0], of_stage.gates[place, 0]
    return BlockMaps(f"stage {stage + 1}, block {place + 1} of {depth}", *maps, of_stage.names)


def _activations(classifier: Classifier, images: Any, topk: int) -> list[Activation]:
    if classifier.model.head is None or topk == 0:
        return []
    logits = np.asarray(classifier.model(images))
    best = np.argsort(-logits, axis=-1, kind="stable")[:, :topk]
    places, logits = class_activation(classifier.model, images, best)
    probabilities = np.asarray(jax.nn.softmax(logits[0]))
    return [
        Activation(classifier.labels[label].split(",")[0], float(probabilities[label]), each)
        for label, each in zip(best[0], places[0], strict=True)
    ]


def _receptive_fields(model: FocalNet, pictures: Sequence[np.ndarray], size: int) -> list[np.ndarray]:
    """Of each stage, averaged over the pictures' centres."""
    side = max(size // multiple_of(model), 1) * multiple_of(model)
    images = normalize(jnp.asarray(np.stack([_centre(picture, side) for picture in pictures])))
    return [receptive_field(model, images, stage) for stage in range(len(model.stages))]


def _centre(picture: np.ndarray, side: int) -> np.ndarray:
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    return picture[top : top + side, left : left + side]


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=_DOTS)


def _suffixes(video: bool) -> tuple[str, ...]:
    return (".gif",) if video else (".png", ".npz")


def _named(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each file: its own without suffix, with it where two are alike, with its folder's too if need be."""
    for name_of in (
        lambda path: path.stem,
        lambda path: path.name,
        lambda path: f"{path.resolve().parent.name}_{path.name}",
    ):
        named = {path: name_of(path) for path in paths}
        if len(set(named.values())) == len(named):
            return named
    twice = next(path for path in paths if list(named.values()).count(named[path]) > 1)
    raise UserError(
        f"two pictures would be called {named[twice]}, one of them {twice}: draw them into folders of their own"
    )
