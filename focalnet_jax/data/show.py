"""Show what a model is trained on: python -m focalnet_jax.data.show --config FILE.py[:VARIANT] --out grid.png.

A sheet of the images of one training batch after all augmentation, erasing and mixing, with their labels: the same
pixels that step of the run sees.
"""

from __future__ import annotations

import math
from pathlib import Path

import jax
import numpy as np
from ml_collections import FrozenConfigDict
from PIL import Image, ImageDraw, ImageFont

from focalnet_jax.config import with_stored
from focalnet_jax.convert.files import read_json
from focalnet_jax.data.class_lists import class_list
from focalnet_jax.data.mixing import prepare_batch
from focalnet_jax.errors import UserError
from focalnet_jax.programs.command_line import load_config, make_parser, parse_arguments, run_command
from focalnet_jax.training.classes import label_training
from focalnet_jax.training.resolve import resolve
from focalnet_jax.training.resume import CONFIG_FILE
from focalnet_jax.training.setup import make_mixing, make_plan, open_train_data, open_train_source, run_mesh
from focalnet_jax.training.step import mixing_key

_MARGIN, _LINE, _SIDE = 6, 13, 160  # pixels: between pictures, of a line of text, and a picture's least
_LABELS = 2  # named below a picture, the largest first


def main(arguments: list[str]) -> int:
    """Parses flags, draws the sheet."""
    parser = make_parser("data.show", __doc__)
    parser.add_argument("--config", required=True, metavar="FILE.py[:VARIANT]", help="a recipe, see configs/")
    parser.add_argument("--out", required=True, type=Path, metavar="PNG")
    parser.add_argument(
        "--workdir", type=Path, metavar="DIR", help="of a run of this recipe: what it has chosen counts"
    )
    parser.add_argument("--step", type=int, default=0, help="updates done before the batch")
    parser.add_argument("--images", type=int, default=24, metavar="N", help="how many of the batch")
    flags, overrides = parse_arguments(parser, arguments)
    if flags.images < 1 or flags.step < 0:
        raise UserError(f"--images {flags.images} --step {flags.step}: expected a positive number and a step")
    # The batch is the same on any number of devices.
    one_device = ["--config.mesh.data=-1", "--config.mesh.fsdp=1", "--config.mesh.tensor=1"]
    config = load_config(flags.config, [*overrides, *one_device], optional=["init_from"])
    if flags.workdir is not None:
        config = with_stored(config, read_json(flags.workdir / CONFIG_FILE))
    config = resolve(config, run_mesh(config), open_train_source(config))
    images, targets, classes = seen_batch(config, flags.step)
    floor = config.augment.label_smoothing / config.model.num_classes
    sheet = draw_sheet(images[: flags.images], targets[: flags.images], classes, floor)
    try:
        sheet.save(flags.out, "PNG")
    except OSError as error:
        raise UserError(f"cannot write --out {flags.out}: {error.strerror}") from error
    print(f"{flags.out}: {min(flags.images, len(images))} of {len(images)} images of step {flags.step}")
    return 0


def seen_batch(config: FrozenConfigDict, step: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The images `[B, H, W, 3]` in [0, 1] (noise beyond it cut), targets `[B, K]` and class names of a step."""
    data = label_training(config, open_train_data(config, run_mesh(config)), None)
    make_plan(config, len(data.source))  # refuses what training refuses
    batch = next(data.batches(step, step + 1))
    key = mixing_key(config.seed, step)
    prepare, mixing = jax.jit(prepare_batch, static_argnames=("num_classes", "mixing")), make_mixing(config)
    images, targets = prepare(batch["image"], batch["label"], config.model.num_classes, mixing, key)
    pixels = np.asarray(images) * mixing.normalization.std + mixing.normalization.mean
    return np.clip(pixels, 0, 1), np.asarray(targets), data.source.class_names


def draw_sheet(images: np.ndarray, targets: np.ndarray, classes: tuple[str, ...], floor: float) -> Image.Image:
    """Pictures in rows, each with its largest labels and their shares below it; `floor` is what smoothing gives all."""
    zoom = max(1, math.ceil(_SIDE / min(images.shape[1:3])))
    tall, wide = zoom * images.shape[1], zoom * images.shape[2]
    columns = min(len(images), max(1, round(math.sqrt(1.6 * len(images)))))
    rows = math.ceil(len(images) / columns)
    width, height = wide + _MARGIN, tall + _LABELS * _LINE + 2 * _MARGIN
    sheet = Image.new("RGB", (columns * width + _MARGIN, rows * height + _MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    words = dict(class_list(1000) + class_list(21842))
    for place, (image, target) in enumerate(zip(images, targets, strict=True)):
        row, column = divmod(place, columns)
        left, top = _MARGIN + column * width, _MARGIN + row * height
        picture = Image.fromarray(np.round(255 * image).astype(np.uint8)).resize((wide, tall), Image.Resampling.NEAREST)
        sheet.paste(picture, (left, top))
        for line, text in enumerate(_captions(target, classes, words, floor)):
            while font.getlength(text) > wide and len(text) > 1:
                text = text[:-1]
            draw.text((left, top + tall + 2 + line * _LINE), text, fill="black", font=font)
    return sheet


def _captions(target: np.ndarray, classes: tuple[str, ...], words: dict[str, str], floor: float) -> list[str]:
    """`0.72 tench` and so on: the labels that stand out of the smoothing."""
    largest = [label for label in np.argsort(-target, kind="stable")[:_LABELS] if target[label] > floor + 1e-3]
    names = [classes[label] if label < len(classes) else f"class {label}" for label in largest]
    return [
        f"{target[label]:.2f} {words.get(name, name).split(',')[0]}" for label, name in zip(largest, names, strict=True)
    ]


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # a picture takes no accelerator from a run
    run_command(main)
