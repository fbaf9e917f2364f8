"""Compares how fast this package and mmdetection read images with boxes and masks, see benchmarks/input.py."""

from __future__ import annotations

import importlib.util
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.input_segmentation import BATCH, FILES, mosaics
from benchmarks.processor import images_per_second
from benchmarks.side_by_side import need
from focalnet_jax.data.instances import Instances
from focalnet_jax.data.loader import ReadOptions, train_batches
from focalnet_jax.tasks.detection.augment import Augmentation
from focalnet_jax.tasks.detection.canvases import Canvases
from focalnet_jax.tasks.detection.host import DetectionHost
from focalnet_jax.tasks.detection.options import Options

SIZE = (640, 480)  # width and height of most images of COCO
OBJECTS, CORNERS = 7, 24  # mean number of objects per image in COCO, and a usual number of corners of a polygon
_RECIPE = Augmentation(Canvases(), mask_side=112)
_HOST = DetectionHost(_RECIPE, Options(), _RECIPE.slots, _RECIPE.mask_side)


def annotated(index: int) -> Instances:
    """Returns the objects of an image: ellipses with a rough outline, from 16 to 400 pixels wide or high."""
    draw = np.random.default_rng(index)
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    outlines, boxes = [], []
    for _ in range(OBJECTS):
        radii = np.exp(draw.uniform(np.log(8), np.log(200), 2)) * draw.uniform(0.8, 1.2, (CORNERS, 1))
        corners = draw.uniform(0, SIZE) + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        corners = corners.clip(0, SIZE).round(2)
        outlines.append([corners.ravel().tolist()])
        boxes.append([*corners.min(axis=0), *corners.max(axis=0)])
    boxes = np.array(boxes, np.float32)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    labels, ids = np.arange(OBJECTS, dtype=np.int32), OBJECTS * index + np.arange(OBJECTS)
    return Instances(index, boxes, labels, np.zeros(OBJECTS, bool), areas, ids, outlines)


class Annotated:
    """A source of the written files with their objects."""

    class_names, fingerprint = tuple(map(str, range(OBJECTS))), "annotated"

    def __init__(self, folder: Path):
        self._folder = folder
        self._objects = [annotated(index) for index in range(FILES)]  # parsed before, in both pipelines

    def __len__(self) -> int:
        return FILES

    def __getitem__(self, index: int) -> tuple[bytes, Instances]:
        return (self._folder / f"{index}.jpg").read_bytes(), self._objects[index]

    def name(self, index: int) -> str:
        return str(index)


def ours(folder: Path, batches: int) -> Iterator[np.ndarray]:
    """Yields batches of this package's loader with one reading thread, padded to the canvas."""
    reading = ReadOptions(threads=1)
    for batch in train_batches(
        Annotated(folder), _HOST, batch_size=BATCH, seed=0, start_step=0, end_step=batches, reading=reading
    ):
        yield batch["image"]


def mmdets(folder: Path, batches: int) -> Iterator[list[Any]]:
    """Yields batches of a torch DataLoader without workers, with the transforms of the original's recipe, not padded.

    mmdetection pads images and masks later, on the device or in the main process, which is not measured.
    """
    import cv2
    import torch

    from parity import mmcv_stub

    mmcv_stub.install()
    from mmcv.transforms import Compose
    from mmdet.datasets import transforms  # noqa: F401 - registers the transforms
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import init_default_scope

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    init_default_scope("mmdet")

    def resized(short_sides: tuple[int, ...]) -> dict[str, Any]:
        scales = [(short, _RECIPE.long_side) for short in short_sides]
        return dict(type="RandomChoiceResize", scales=scales, keep_ratio=True)

    crop = dict(type="RandomCrop", crop_type="absolute_range", crop_size=_RECIPE.crop_range, allow_negative_crop=True)
    last = resized(_RECIPE.short_sides)
    pipeline = Compose([
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
        dict(type="RandomFlip", prob=_RECIPE.flip),
        dict(type="RandomChoice", transforms=[[last], [resized(_RECIPE.crop_short_sides), crop, last]]),
        dict(type="PackDetInputs"),
    ])  # fmt: skip
    objects = [_entries(annotated(index)) for index in range(FILES)]

    class Files(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return FILES

        def __getitem__(self, index: int) -> dict[str, Any]:
            known = dict(img_id=index, width=SIZE[0], height=SIZE[1], instances=objects[index])
            return pipeline(known | {"img_path": str(folder / f"{index}.jpg")})

    loader = torch.utils.data.DataLoader(Files(), BATCH, shuffle=True, collate_fn=pseudo_collate)
    done = 0
    while done < batches:
        for batch in loader:
            yield batch["inputs"]
            done += 1
            if done == batches:
                return


def _entries(found: Instances) -> list[dict[str, Any]]:
    """Returns objects as mmdetection's data sets list them."""
    rows = zip(found.boxes.tolist(), found.labels.tolist(), found.segments, strict=True)
    return [dict(bbox=box, bbox_label=label, mask=mask, ignore_flag=0) for box, label, mask in rows]


def measure(batches: int, rounds: int) -> None:
    """Measures both loaders in turns; prints images per second of processor time. The last line is one JSON object."""
    need("skimage")
    sides: dict[str, Callable[[Path, int], Iterator[Any]]] = {"ours": ours}
    if importlib.util.find_spec("mmdet"):
        sides["mmdet"] = mmdets
    else:
        print("mmdetection is not installed, so only this package is measured (make parity installs it)")
    rates: dict[str, list[float]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, mosaic in enumerate(mosaics(FILES, SIZE)):
            mosaic.save(folder / f"{index}.jpg", quality=90)
        for _ in range(rounds):
            for side, loader in sides.items():
                rates[side].append(images_per_second(partial(loader, folder), batches))
    result = {side: round(statistics.median(values), 1) for side, values in rates.items()}
    text = ", ".join(f"{side} {value}" for side, value in result.items())
    if "mmdet" in sides:
        ratios = [a / b for a, b in zip(rates["ours"], rates["mmdet"], strict=True)]
        result["ratio"] = round(statistics.median(ratios), 2)
        text += f", ratio {min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{SIZE[0]}x{SIZE[1]}, {OBJECTS} objects, images/s/core: {text}", flush=True)
    print(json.dumps(result))
