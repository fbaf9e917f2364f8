"""Error messages for folders and tars whose layout is not that of a data set."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from focalnet_jax.data.prepare.naming import (
    is_imagenet_file,
)
from focalnet_jax.errors import abbreviated


def no_class_folders(title: str, split: str, names: Sequence[str]) -> str:
    """Returns the error message for a split in which no image is in a class folder."""
    advice = "expected CLASS/*.jpg, one folder per class"
    if any(is_imagenet_file(name) for name in names):
        advice = "for ImageNet use the kind imagenet1k, which takes labels from --val-labels or file names"
    return f"{title}: {len(names)} images of {split}, such as {names[0]}, are not in class folders; {advice}"


def copied_classes(classes: Collection[str], below: Sequence[str]) -> bool:
    """Returns whether a class folder seems to be a copy of the data set: all folders in it are named like classes."""
    return len(below) > 1 and set(below) <= set(classes)


def copy_of_classes(title: str, name: str, below: Sequence[str]) -> str:
    """Returns the error message for a class folder that contains folders named after the classes."""
    return (
        f"{title}: {name} contains folders with names of classes, such as {abbreviated(below, 2)}, so it seems to be a "
        "copy of the data set and not a class; move it away, or give it alone"
    )


def unclear_class(title: str, name: str, below: Sequence[str]) -> str:
    """Returns the error message for the only folder of a split, which may be a class or contain the classes."""
    return (
        f"{title}: {name} is the only folder of a split and contains folders, such as {abbreviated(below, 2)}; if "
        f"these are the classes, rename {name} to images; if {name} is the class, move all images directly into it"
    )


def mixed_splits(title: str, split: str, other: str) -> str:
    """Returns the error message for a folder in which only some subfolders are splits."""
    return (
        f"{title} contains {split}, a split, and {other}, which is not a split: move the splits to a separate folder, "
        f"or rename {split} if it is a class"
    )


def split_below(title: str, above: str, split: str) -> str:
    """Returns the error message for splits inside class folders."""
    return (
        f"{title}: {above} contains the split {split}; expected SPLIT/CLASS/*.jpg, not CLASS/SPLIT/*.jpg; move the "
        f"folders, or give {above} alone if it is a data set"
    )
