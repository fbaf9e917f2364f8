"""Interprets file and folder names: split, class, and whether a file may be an image."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from focalnet_jax.data.formats import IMAGE_SUFFIXES
from focalnet_jax.data.listing import left_behind
from focalnet_jax.data.source import are_numbers
from focalnet_jax.data.split_names import SPLIT_NAMES
from focalnet_jax.errors import abbreviated

SPLITS = ("train", "val", "test")
# Names of folders that contain images or classes, but are not classes.
_IMAGE_FOLDERS = frozenset(
    {"data", "image", "images", "img", "imgs", "jpeg", "jpegimages", "jpegs", "jpg", "jpgs", "photos", "pics"}
    | {"pictures", "png", "pngs"}
)
_PACKED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
TAR_SUFFIXES = (".tar", *_PACKED_SUFFIXES)
# Names of numbered parts: train-00003-of-00008-0a1b2c3d4e5f6789.parquet, set-000123.tar, train_images_4.tar.gz
_PART = re.compile(r"(.*?)(\d+)(?:-of-(\d+)(?:-[0-9a-f]{8,})?|)(\D*)", re.IGNORECASE)
_FURTHEST = 100_000  # largest distance between the numbers of parts; numbers further apart are dates or ids
_SYNSET = re.compile(r"n\d{8}")
# Names of ImageNet's files; file names on the Hugging Face Hub end with the synset.
_TRAIN_FILE = re.compile(r"((n\d{8})_\d+)(?:_(n\d{8}))?")
NUM_IMAGES = {"train": 1_281_167, "val": 50_000}  # of ImageNet-1K
# The first validation image shows a sea snake. A list or label with another class for it has a different order.
FIRST_IMAGE, FIRST_SYNSET = "ILSVRC2012_val_00000001", "n01751748"
_EVAL_FILE = re.compile(r"(ILSVRC2012_(?:val|test)_\d{8})(?:_(n\d{8}))?")


def holds_images_only(folder: str) -> bool:
    """Returns whether a folder name is generic, such as images, and therefore not the name of a class."""
    return folder.lower() in _IMAGE_FOLDERS


def splits_in(name: str) -> set[str]:
    """Returns the splits named by words of a file name, such as train for imagenet1k-train-0001.tar."""
    return {SPLIT_NAMES[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLIT_NAMES}


def may_be_image(name: str) -> bool:
    """Returns whether a file may be an image: it has the suffix of an image, or no suffix."""
    return has_image_suffix(name) or not PurePosixPath(name).suffix


def has_image_suffix(name: str) -> bool:
    """Returns whether a file has the suffix of an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_hidden(path: str) -> bool:
    """Returns whether a part of a path is hidden, or a leftover of an operating system or tool."""
    return any(map(left_behind, PurePosixPath(path).parts))


def is_tar(name: str) -> bool:
    """Returns whether a file has the suffix of a tar or of a compressed tar."""
    return name.lower().endswith(TAR_SUFFIXES)


def tar_stem(name: str) -> str:
    """Returns the name of a tar without its suffixes."""
    suffix = next((suffix for suffix in TAR_SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def missing_parts(paths: Iterable[PurePosixPath]) -> list[str]:
    """Returns a note for each set of numbered files, such as -00003-of-00008, in which some numbers are missing."""
    sets: dict[tuple[str, str, str], set[int]] = {}
    for path in paths:
        stem = tar_stem(path.name) if is_tar(path.name) else path.stem
        found = _PART.fullmatch(stem)
        if found and not is_synset(stem):
            key = str(path.parent / found[1]), found[3] or "", found[4]
            sets.setdefault(key, set()).add(int(found[2]))
    lines = []
    for (name, of, _), numbers in sets.items():
        if max(numbers) - min(numbers) > _FURTHEST or int(of or 0) > _FURTHEST:
            continue
        count = int(of) if of else max(numbers) - min(numbers) + 1
        first = 1 if count in numbers else 0  # some sets count from 1
        absent = sorted(set(range(first, first + count) if of else range(min(numbers), max(numbers))) - numbers)
        if absent:
            lines.append(
                f"note: {len(numbers)} of {count} files of {name}* are present; missing: "
                f"{abbreviated([str(number) for number in absent])}"
            )
    return lines


def is_synset(name: str) -> bool:
    """Returns whether a name is a synset such as n01440764."""
    return bool(_SYNSET.fullmatch(name))


def leading_synset(file: str) -> str | None:
    """Returns the synset at the beginning of a file name, or None."""
    found = _SYNSET.match(file)
    return found and found[0]


def imagenet_file(file: str) -> tuple[str, str | None, bool]:
    """Returns an ImageNet file's original stem, the synset in its name or None, and whether its name is consistent.

    `n01440764_10026_n01440764.JPEG` gives `("n01440764_10026", "n01440764", True)`. A name with two different synsets
    is not consistent. The stem of any other file is unchanged.
    """
    stem = PurePosixPath(file).stem
    if found := _TRAIN_FILE.fullmatch(stem):
        return found[1], found[2], found[3] in (None, found[2])
    if found := _EVAL_FILE.fullmatch(stem):
        return found[1], found[2], True
    return stem, None, True


def is_imagenet_file(file: str) -> bool:
    """Returns whether a file has an ImageNet name."""
    stem = PurePosixPath(file).stem
    return bool(_TRAIN_FILE.fullmatch(stem) or _EVAL_FILE.fullmatch(stem))


def evaluation_split(file: str) -> str | None:
    """Returns the split, val or test, in the name of an ImageNet file, or None."""
    found = _EVAL_FILE.fullmatch(PurePosixPath(file).stem)
    return found and found[1].split("_")[1]


def is_evaluation_file(file: str) -> bool:
    """Returns whether a file has the name of an ImageNet validation or test image."""
    return bool(_EVAL_FILE.fullmatch(PurePosixPath(file).stem))


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Returns sorted names. If all names are numbers, they are sorted by value, so that 10 follows 9."""
    names = list(names)
    if names and are_numbers(names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
