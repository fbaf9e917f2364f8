"""Writes small archives with the layout of ADE20K's SceneParse150."""

import io
import tarfile
import zipfile

import numpy as np
from PIL import Image

from focalnet_jax.data.segment_classes import ade20k_classes
from tests.data.pictures import encoded

ROOT = "ADEChallengeData2016"
FOLDERS = {"train": "training", "val": "validation"}


def object_info(names=None):
    """Returns the text of objectInfo150.txt."""
    rows = [
        f"{number + 1}\t0.1\t9\t9\t{name}, something" for number, name in enumerate(names or ade20k_classes().names)
    ]
    return "\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]) + "\n"


def pair(number, size=(14, 10)):
    """Returns the bytes of an image and of its mask, with the labels 0, 1, 2 and `number` % 150 + 1."""
    rng = np.random.default_rng(number)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    mask = rng.integers(0, 3, (size[1], size[0]), np.uint8)
    mask[0, :2] = number % 150 + 1
    return encoded(image), encoded(Image.fromarray(mask), "PNG")


def ade20k_files(train=5, val=2):
    """Returns the files of the zip archive by name."""
    files = {f"{ROOT}/objectInfo150.txt": object_info().encode(), f"{ROOT}/sceneCategories.txt": b"ADE_train_1 room\n"}
    for split, count in (("train", train), ("val", val)):
        for number in range(1, count + 1):
            name = f"{FOLDERS[split]}/ADE_{split}_{number:08d}"
            image, mask = pair(number + 100 * (split == "val"))
            files |= {f"{ROOT}/images/{name}.jpg": image, f"{ROOT}/annotations/{name}.png": mask}
    return files


def write_zip(path, files):
    """Writes a zip archive with folders and compression like the original."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in sorted({name.rpartition("/")[0] + "/" for name in files}):
            archive.writestr(folder, b"")
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_instances(path, files):
    """Writes annotations_instance.tar for the masks among the files of the zip archive."""
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            if "/annotations/" in name:
                mask = np.asarray(Image.open(io.BytesIO(content)))
                instances = encoded(Image.fromarray(np.stack([mask, mask // 2, mask * 0], axis=-1)), "PNG")
                member = tarfile.TarInfo(name.replace(f"{ROOT}/annotations", "annotations_instance"))
                member.size = len(instances)
                archive.addfile(member, io.BytesIO(instances))
    return path
