"""From files to figures: what `python -m focalnet_jax.visualize` does."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from focalnet_jax.data.decode import LARGEST_SIDE
from focalnet_jax.data.preprocessing import FILTERS, Preprocessing
from focalnet_jax.errors import UserError
from focalnet_jax.inference import Classifier, read_picture
from focalnet_jax.model import FocalNet
from focalnet_jax.model.compiled import compiled
from focalnet_jax.system.files import check_result, write_result
from focalnet_jax.visualize.figures import (
    Activation,
    BlockMaps,
    as_png,
    kernels_figure,
    picture_figure,
    receptive_figure,
)
from focalnet_jax.visualize.frames import as_gif, read_frames
from focalnet_jax.visualize.maps import StageMaps, class_activation, focal_kernels, modulation_maps, receptive_field
from focalnet_jax.visualize.sheets import map_sheets

_KERNELS, _FIELD = "kernels", "receptive_field"  # what figures of the model are called
_AVERAGED = 8  # pictures of a receptive field


@dataclass(frozen=True)
class Options:
    """What to draw: stages and blocks counted from 0, the block from the end where it is negative."""

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
      UserError: a file stands in the folder already or cannot be written, or, after all others are drawn, some of
        what to draw cannot be read.
    """
    named, model = _named([*pictures, *videos]), classifier.model
    stems = {name: ".gif" if path in videos else ".png" for path, name in named.items()}
    stems |= dict.fromkeys(_of_model(model, pictures), ".png")
    _spare(out, stems, [*pictures, *videos])
    _make_way(out, stems, overwrite=overwrite)
    begun, fitted, broken, moving = time.monotonic(), [], [], 0
    for done, path in enumerate(pictures, 1):
        try:
            picture = fit(read_picture(path), classifier.preprocessing, multiple_of(model), path)
        except UserError as error:
            broken.append(str(error))
            continue
        draw_picture(classifier, picture, out / named[path], options)
        fitted = [*fitted, picture][:_AVERAGED]
        left = (time.monotonic() - begun) / done * (len(pictures) - done)
        print(f"{done}/{len(pictures)}  {out / named[path]}.png  eta {left:.0f} s", flush=True)
    for path in videos:
        try:
            frames, seconds = read_frames(path, options.every, options.most)
            frames = [fit(frame, classifier.preprocessing, multiple_of(model), path) for frame in frames]
        except UserError as error:
            broken.append(str(error))
            continue
        try:
            draw_video(classifier, frames, seconds, out / named[path], options)
        except UserError as error:
            broken.append(f"{path}: {error}")
            continue
        moving += 1
        print(f"{out / named[path]}.gif  {len(frames)} frames", flush=True)
    if fitted or moving:
        _draw_model(classifier, fitted, out, options)
    if broken:
        raise UserError("; ".join(broken))


def _spare(out: Path, stems: Mapping[str, str], sources: Sequence[Path]) -> None:
    """Refuses to write over what is drawn, or among a video's frames, where the next run would take it for one."""
    read = {path.resolve() for path in sources}
    for name, suffix in stems.items():
        target = _file(out / name, suffix)
        if target.resolve() in read:
            raise UserError(f"{target} is itself to be drawn and would be written over: choose another --out")
    if out.resolve() in read:
        raise UserError(f"--out {out} is a folder of frames that are to be drawn: choose another")


def _make_way(out: Path, stems: Mapping[str, str], *, overwrite: bool) -> None:
    """Makes the folder; refuses files of these names, each with the suffix of its picture, that stand there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make --out {out}: {error.strerror}; choose another") from error
    for name, suffix in stems.items():
        for kind in (suffix, ".npz"):
            check_result(_file(out / name, kind), overwrite=overwrite)


def draw_picture(classifier: Classifier, picture: np.ndarray, target: Path, options: Options) -> None:
    """`target`.png and `target`.npz of a picture `[H, W, 3]` uint8."""
    images = classifier.normalize(jnp.asarray(picture[None]))
    stages = modulation_maps(classifier.model, images)
    blocks = [block_maps(stages, stage, options.block) for stage in options.stages]
    arrays: dict[str, np.ndarray] = {"picture": picture}
    for number, stage in enumerate(stages, 1):
        arrays[f"stage{number}/modulator"] = stage.modulator[:, 0]  # [D, h, w]
        arrays[f"stage{number}/gates"] = stage.gates[:, 0]  # [D, h, w, L + 1]
    activations = _activations(classifier, images, options.topk)
    for activation in activations:
        arrays[f"activation/{activation.label}"] = activation.places
    _save(picture_figure(picture, blocks, activations), arrays, target)


def draw_video(
    classifier: Classifier, frames: Sequence[np.ndarray], seconds: float, target: Path, options: Options
) -> None:
    """`target`.gif, frames beside the modulator and the gates of the last of the stages, and `target`.npz.

    Args:
      classifier: the model.
      frames: each `[H, W, 3]` uint8, fitted to it.
      seconds: one is shown.
      target: what is written, without suffix.
      options: what to draw.
    """
    stage = options.stages[-1]
    maps = [
        block_maps(modulation_maps(classifier.model, images), stage, options.block)
        for images in (classifier.normalize(jnp.asarray(frame[None])) for frame in frames)
    ]
    place, _ = _block(stage, options.block, classifier.model.config.depths[stage])
    key = f"stage{stage + 1}/block{place + 1}"
    arrays = {
        "frames": np.stack(frames),
        f"{key}/modulator": np.stack([each.modulator for each in maps]),  # [N, h, w]
        f"{key}/gates": np.stack([each.gates for each in maps]),  # [N, h, w, L + 1]
    }
    write_result(_file(target, ".gif"), as_gif(map_sheets(frames, maps), seconds))
    _save_arrays(arrays, target)


def _of_model(model: FocalNet, pictures: Sequence[Any]) -> list[str]:
    """What is drawn of the model itself: its kernels where it has any; what depends on pictures where there are any."""
    return [*([_KERNELS] if model.config.use_depthwise_conv else []), *([_FIELD] if pictures else [])]


def _draw_model(classifier: Classifier, pictures: Sequence[np.ndarray], out: Path, options: Options) -> None:
    model = classifier.model
    if _FIELD in _of_model(model, pictures):
        fields = _receptive_fields(classifier, pictures, options)
        arrays = {f"stage{stage + 1}": field for stage, field in fields.items()}  # [H, W]
        names = [f"stage {stage + 1}" for stage in fields]
        _save(receptive_figure(list(fields.values()), names), arrays, out / _FIELD)
    if _KERNELS in _of_model(model, pictures):
        kernels = focal_kernels(model)
        arrays = {
            f"stage{stage}/level{level}": each  # [D, k, k]
            for stage, levels in enumerate(kernels, 1)
            for level, each in enumerate(levels, 1)
        }
        shown = [_shown_kernels(kernels[stage], stage, options.block) for stage in options.stages]
        names, chosen = zip(*shown, strict=True)
        _save(kernels_figure(chosen, names), arrays, out / _KERNELS)


def _shown_kernels(levels: Sequence[np.ndarray], stage: int, block: int) -> tuple[str, list[np.ndarray]]:
    """A stage's name and its kernels, those of one block where one is named."""
    if block < 0:
        return f"stage {stage + 1}", list(levels)
    place, name = _block(stage, block, len(levels[0]))
    return name, [each[place : place + 1] for each in levels]


def fit(picture: np.ndarray, how: Preprocessing, multiple: int, path: Path) -> np.ndarray:
    """Returns a picture `[H, W, 3]` resized for a model, both sides multiples of `multiple`, nothing cut off.

    Its proportions are kept and it about covers the size of `how`; it is stretched to that size if `how` stretches.

    Raises:
      UserError: names it by its path; it would be too large.
    """
    height, width, _ = picture.shape
    tall, wide = how.size
    if how.mode != "stretch":
        scale = max(tall / height, wide / width)
        tall, wide = height * scale, width * scale
    sides = [max(multiple, round(side / multiple) * multiple) for side in (wide, tall)]
    if math.prod(sides) > LARGEST_SIDE**2:
        becomes = f"{width}x{height} pixels, {sides[0]}x{sides[1]} to cover {how.size[1]}x{how.size[0]}"
        raise UserError(f"{path} has {becomes}; at most {LARGEST_SIDE**2:,} are looked at: give a smaller --size")
    return np.asarray(Image.fromarray(picture).resize(sides, FILTERS[how.interpolation]))


def multiple_of(model: FocalNet) -> int:
    """What a picture's sides are multiples of where no stage of the model cuts any of it off."""
    return model.config.patch_size * 2 ** (len(model.stages) - 1)


def block_maps(stages: Sequence[StageMaps], stage: int, block: int) -> BlockMaps:
    """Those of one block and the first picture, both counted from 0; of a stage with fewer blocks, its last."""
    of_stage = stages[stage]
    place, name = _block(stage, block, len(of_stage.modulator))
    return BlockMaps(name, of_stage.modulator[place, 0], of_stage.gates[place, 0], of_stage.names)


def _block(stage: int, block: int, depth: int) -> tuple[int, str]:
    """Which of a stage's blocks it is, of a shorter stage its last, and what figures call it."""
    place = min(block, depth - 1) % depth
    return place, f"stage {stage + 1}, block {place + 1} of {depth}"


def _activations(classifier: Classifier, images: Any, topk: int) -> list[Activation]:
    if classifier.model.head is None or topk == 0:
        return []
    logits = np.asarray(_logits(classifier.model, images))
    best = np.argsort(-logits, axis=-1, kind="stable")[:, :topk]
    places, logits = class_activation(classifier.model, images, best)
    probabilities = np.asarray(jax.nn.softmax(logits[0]))
    return [
        Activation(classifier.names[label], float(probabilities[label]), each)
        for label, each in zip(best[0], places[0], strict=True)
    ]


@compiled
def _logits(model: FocalNet, images: jax.Array) -> jax.Array:
    return model(images)


def _receptive_fields(
    classifier: Classifier, pictures: Sequence[np.ndarray], options: Options
) -> dict[int, np.ndarray]:
    """Of each of the stages, averaged over the pictures' centres."""
    multiple = multiple_of(classifier.model)
    size = [max(side // multiple, 1) * multiple for side in classifier.preprocessing.size]
    images = classifier.normalize(jnp.asarray(np.stack([_centre(picture, size) for picture in pictures])))
    return {stage: receptive_field(classifier.model, images, stage) for stage in options.stages}


def _centre(picture: np.ndarray, size: Sequence[int]) -> np.ndarray:
    (height, width), (top, left) = size, ((side - part) // 2 for side, part in zip(picture.shape, size, strict=False))
    return picture[top : top + height, left : left + width]


def _save(figure: Figure, arrays: Mapping[str, np.ndarray], target: Path) -> None:
    write_result(_file(target, ".png"), as_png(figure))
    _save_arrays(arrays, target)


def _save_arrays(arrays: Mapping[str, np.ndarray], target: Path) -> None:
    written = io.BytesIO()
    np.savez_compressed(written, **arrays)
    write_result(_file(target, ".npz"), written.getvalue())


def _file(target: Path, suffix: str) -> Path:
    return target.with_name(f"{target.name}{suffix}")  # a name may hold dots


def _named(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each file: its own without suffix, with it where two are alike, with its folder's too if need be."""
    for name_of in (
        lambda path: path.stem,
        lambda path: path.name,
        lambda path: f"{path.resolve().parent.name}_{path.name}",
    ):
        named = {path: name_of(path) for path in paths}
        if len({*named.values(), _KERNELS, _FIELD}) == len(named) + 2:
            return named
    twice = next(path for path in paths if list(named.values()).count(named[path]) > 1)
    raise UserError(
        f"two pictures would be called {named[twice]}, one of them {twice}: draw them into folders of their own"
    )
