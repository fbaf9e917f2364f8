"""Compares how fast this package and mmsegmentation read images and masks, see benchmarks/input.py."""

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
from PIL import Image, ImageFilter

from benchmarks.processor import images_per_second
from benchmarks.side_by_side import need
from focalnet_jax.data.loader import ReadOptions, train_batches
from focalnet_jax.data.masks import MaskCoding
from focalnet_jax.tasks.segmentation.augment import Augmentation
from focalnet_jax.tasks.segmentation.host import SegmentationHost

SIZES = ((683, 512), (2048, 1365))  # a usual and a large image of ADE20K
BATCH, FILES = 8, 24
_RECIPE = Augmentation()


def mosaics(count: int, size: tuple[int, int]) -> Iterator[Image.Image]:
    """Yields images of a width and height, made of photos in scikit-learn and scikit-image."""
    from skimage import data as photos
    from sklearn.datasets import load_sample_images

    sources = [*load_sample_images().images, photos.astronaut(), photos.coffee(), photos.chelsea(), photos.rocket()]
    pictures = [Image.fromarray(source) for source in sources]
    draw = np.random.default_rng(0)
    tile = (512, 384)
    for _ in range(count):
        mosaic = Image.new("RGB", size)
        for top in range(0, size[1], tile[1]):
            for left in range(0, size[0], tile[0]):
                mosaic.paste(pictures[draw.integers(len(pictures))].resize(tile, Image.Resampling.BICUBIC), (left, top))
        yield mosaic


def write_pairs(folder: Path, size: tuple[int, int]) -> None:
    """Writes JPEGs (`mosaics`) and PNG masks made from their brightness."""
    for index, mosaic in enumerate(mosaics(FILES, size)):
        mosaic.save(folder / f"{index}.jpg", quality=90)
        # Regions with smooth borders, whose number does not depend on the size, as in drawn masks.
        grey = mosaic.convert("L").resize(SIZES[0], Image.Resampling.BOX).filter(ImageFilter.BoxBlur(6))
        Image.fromarray(np.asarray(grey.resize(size, Image.Resampling.BICUBIC)) // 16).save(folder / f"{index}.png")


class Pairs:
    """A source of the written files."""

    class_names, fingerprint = tuple(map(str, range(16))), "pairs"

    def __init__(self, folder: Path):
        self._folder = folder

    def __len__(self) -> int:
        return FILES

    def __getitem__(self, index: int) -> tuple[bytes, bytes]:
        return (self._folder / f"{index}.jpg").read_bytes(), (self._folder / f"{index}.png").read_bytes()

    def name(self, index: int) -> str:
        return str(index)


def ours(folder: Path, batches: int) -> Iterator[np.ndarray]:
    """Yields batches of this package's loader with one reading thread."""
    host, reading = SegmentationHost(_RECIPE, MaskCoding(16)), ReadOptions(threads=1)
    for batch in train_batches(
        Pairs(folder), host, batch_size=BATCH, seed=0, start_step=0, end_step=batches, reading=reading
    ):
        yield batch["image"]


def mmsegs(folder: Path, batches: int) -> Iterator[list[Any]]:
    """Yields batches of a torch DataLoader without workers, with the transforms of mmsegmentation's ADE20K recipe."""
    import cv2
    import torch

    from parity import mmcv_stub

    mmcv_stub.install()
    from mmcv.transforms import Compose
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import init_default_scope
    from mmseg.datasets import transforms  # noqa: F401 - registers the transforms

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    init_default_scope("mmseg")
    pipeline = Compose([
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations"),
        dict(type="RandomResize", scale=_RECIPE.box, ratio_range=_RECIPE.ratio, keep_ratio=True),
        dict(type="RandomCrop", crop_size=_RECIPE.size, cat_max_ratio=_RECIPE.cat_max_ratio),
        dict(type="RandomFlip", prob=_RECIPE.flip),
        dict(type="PhotoMetricDistortion"),
        dict(type="PackSegInputs"),
    ])  # fmt: skip

    class Files(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return FILES

        def __getitem__(self, index: int) -> dict[str, Any]:
            paths = {"img_path": str(folder / f"{index}.jpg"), "seg_map_path": str(folder / f"{index}.png")}
            return pipeline(paths | {"reduce_zero_label": False, "label_map": None, "seg_fields": []})

    loader = torch.utils.data.DataLoader(Files(), BATCH, shuffle=True, collate_fn=pseudo_collate)
    done = 0
    while done < batches:
        for batch in loader:
            yield batch["inputs"]
            done += 1
            if done == batches:
                return


def measure(batches: int, rounds: int) -> None:
    """Measures both loaders in turns; prints images per second of processor time. The last line is one JSON object."""
    need("skimage")
    sides: dict[str, Callable[[Path, int], Iterator[Any]]] = {"ours": ours}
    if importlib.util.find_spec("mmseg"):
        sides["mmseg"] = mmsegs
    else:
        print("mmsegmentation is not installed, so only this package is measured (make parity installs it)")
    result: dict[str, float] = {}
    for size in SIZES:
        title = "x".join(map(str, size))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_pairs(folder, size)
            kilobytes = statistics.mean(file.stat().st_size for file in folder.glob("*.jpg")) / 1000
            rates: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(rounds):
                for side, loader in sides.items():
                    rates[side].append(images_per_second(partial(loader, folder), batches))
        for side, values in rates.items():
            result[f"{title}_{side}"] = round(statistics.median(values), 1)
        text = ", ".join(f"{side} {result[f'{title}_{side}']}" for side in sides)
        if "mmseg" in sides:
            ratios = [a / b for a, b in zip(rates["ours"], rates["mmseg"], strict=True)]
            result[f"{title}_ratio"] = round(statistics.median(ratios), 2)
            text += f", ratio {min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{title} ({kilobytes:.0f} kB) images/s/core: {text}", flush=True)
    print(json.dumps(result))
