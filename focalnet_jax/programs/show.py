"""Show what a model is trained on: python -m focalnet_jax.data.show --config FILE.py[:VARIANT] --out grid.png.

Draws the images of one training batch with their targets, after all augmentation, erasing and mixing. A run with this
config trains on exactly these pixels at that step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import FrozenConfigDict
from PIL import Image, ImageDraw, ImageFont

from focalnet_jax.convert.files import read_json
from focalnet_jax.data.drawing import shortened
from focalnet_jax.distributed.mesh import run_mesh
from focalnet_jax.errors import UserError
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.programs.flags import make_parser, parse_arguments, parse_workdir
from focalnet_jax.storage.files import answering, exists
from focalnet_jax.system.files import check_local
from focalnet_jax.tasks import task_kind
from focalnet_jax.training.data import open_train_data
from focalnet_jax.training.plan import make_plan
from focalnet_jax.training.resolve import resolve
from focalnet_jax.training.resume import CONFIG_FILE
from focalnet_jax.training.state import augmentation_key
from focalnet_jax.training.stored_config import with_stored

_MARGIN, _LINE, _SIDE = 6, 13, 160  # pixels: margin, height of a line of text, smallest side of an image
_LINES = 2  # number of caption lines below an image


def main(arguments: list[str]) -> int:
    """Parses the flags and draws the sheet."""
    parser = make_parser("data.show", __doc__)
    parser.add_argument("--config", required=True, metavar="FILE.py[:VARIANT]", help="a recipe, see configs/")
    parser.add_argument("--out", required=True, type=Path, metavar="PNG", help="file to write")
    parser.add_argument("--workdir", metavar="DIR", help="a run of this recipe; its automatic choices are used")
    parser.add_argument("--step", type=int, default=0, help="steps before the batch (default: %(default)s)")
    parser.add_argument("--images", type=int, default=24, metavar="N", help="images to draw (default: %(default)s)")
    flags, overrides = parse_arguments(parser, arguments)
    if flags.images < 1 or flags.step < 0:
        raise UserError(f"--images {flags.images} --step {flags.step}: expected a positive number, and 0 or more")
    check_local(flags.out, "this image is")
    # The batch is the same on any number of devices.
    one_device = ["--config.mesh.data=-1", "--config.mesh.fsdp=1", "--config.mesh.tensor=1"]
    config = load_config(flags.config, [*overrides, *one_device], optional=["init_from"])
    if flags.workdir is not None:
        workdir = parse_workdir(flags.workdir)
        with answering(workdir):
            if not exists(workdir / CONFIG_FILE):
                raise UserError(f"--workdir {workdir} has no {CONFIG_FILE}; expected the workdir of a run")
        config = with_stored(config, read_json(workdir / CONFIG_FILE))
    shown, size = shown_batch(config, flags.step, flags.images)
    sheet = draw_sheet(shown)
    try:
        sheet.save(flags.out, "PNG")
    except OSError as error:
        raise UserError(f"cannot write --out {flags.out}: {error.strerror}; choose another file") from error
    print(f"{flags.out}: {len(shown)} of {size} images of step {flags.step}")
    return 0


def shown_batch(config: FrozenConfigDict, step: int, most: int) -> tuple[list[tuple[np.ndarray, list[str]]], int]:
    """Returns at most `most` images `[H, W, 3]` uint8 of a step's batch with their captions, and the batch size."""
    mesh, kind = run_mesh(config.mesh.to_dict()), task_kind(config.task)
    source = kind.open_examples(config)
    config = resolve(config, mesh, source)
    task = kind.make_task(config, source, evaluated=False).start_fresh()
    data = open_train_data(config, mesh, task)
    make_plan(config, len(source), task.groups)  # raises the errors that training raises
    batch = jax.jit(task.prepare)(next(data.batches(step, step + 1)), augmentation_key(config.seed, step))
    batch = jax.device_get(batch)
    size = len(jax.tree.leaves(batch)[0])
    return [task.show(batch, index) for index in range(min(most, size))], size


def draw_sheet(shown: Sequence[tuple[np.ndarray, list[str]]]) -> Image.Image:
    """Returns a sheet of rows of images, with captions below each image."""
    shape = shown[0][0].shape
    zoom = max(1, math.ceil(_SIDE / min(shape[:2])))
    tall, wide = zoom * shape[0], zoom * shape[1]
    columns = min(len(shown), max(1, round(math.sqrt(1.6 * len(shown) * tall / wide))))
    rows = math.ceil(len(shown) / columns)
    width, height = wide + _MARGIN, tall + _LINES * _LINE + 2 * _MARGIN
    sheet = Image.new("RGB", (columns * width + _MARGIN, rows * height + _MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for index, (image, captions) in enumerate(shown):
        row, column = divmod(index, columns)
        left, top = _MARGIN + column * width, _MARGIN + row * height
        picture = Image.fromarray(image).resize((wide, tall), Image.Resampling.NEAREST)
        sheet.paste(picture, (left, top))
        for line, text in enumerate(captions[:_LINES]):
            draw.text((left, top + tall + 2 + line * _LINE), shortened(text, font, wide), fill="black", font=font)
    return sheet
