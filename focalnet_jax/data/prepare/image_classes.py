"""Finds the class of an image from its path, label and lists, and its file name in the data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from focalnet_jax.data.class_lists import synset_of
from focalnet_jax.data.prepare.index import AMBIGUOUS, GOOD, NO_IMAGE, NOT_LISTED, OTHER_CLASS, TEST
from focalnet_jax.data.prepare.labels import Labels, synsets_named
from focalnet_jax.data.prepare.naming import (
    FIRST_IMAGE,
    FIRST_SYNSET,
    imagenet_file,
    is_evaluation_file,
    is_imagenet_file,
    is_synset,
    leading_synset,
    may_be_image,
)

Parts = tuple[str, ...]  # of a path


def place_imagenet(
    parts: Parts, candidates: Sequence[str | frozenset[str] | None], *, test: bool = False
) -> tuple[str, str, int]:
    """Returns class, file name in the data set and `WHY_NOT` index of an ImageNet image.

    Args:
      parts: parts of the image's path.
      candidates: classes from other sources (folder, list, label); a set if a source allows several classes, None if it
        has no class.
      test: whether the image is of the test split, whose images have no labels.
    """
    file = parts[-1]
    stem, synset, fits = imagenet_file(file)
    options = [frozenset({name}) if isinstance(name, str) else name for name in (*candidates, synset) if name]
    classes = frozenset.intersection(*options) if options else frozenset()
    if not may_be_image(file):
        return "", "/".join(parts), NO_IMAGE
    if not options:
        return "", "/".join(parts), TEST if test else NOT_LISTED
    if len(classes) != 1 or not fits:
        return "", "/".join(parts), AMBIGUOUS if len(classes) > 1 and fits else OTHER_CLASS
    (name,) = classes
    suffix = PurePosixPath(file).suffix
    if is_imagenet_file(file):
        suffix = ".JPEG" if suffix.lower() in (".jpg", ".jpeg") else suffix
        return name, stem + suffix if is_evaluation_file(file) else f"{name}/{stem}{suffix}", GOOD
    return name, below_class(name, parts), GOOD


def proven_synset(parts: Parts, listed: str | None = None, name: str = "") -> str:
    """Returns the synset that an image's path or a list proves; "" if there is none, or if two synsets differ.

    ImageNet's first validation image proves its class `name` if that is right. If it is wrong, see
    `numbering.check_first`: the images may be a small set of others under ImageNet's file names.
    """
    stem, synset, fits = imagenet_file(parts[-1])
    folder = synset_folder(parts)
    first = FIRST_SYNSET if stem == FIRST_IMAGE and FIRST_SYNSET in synsets_named(name) else None
    proofs = {synset or leading_synset(parts[-1]), folder, listed, first} - {None}
    return proofs.pop() if len(proofs) == 1 and fits else ""


def synset_folder(parts: Parts) -> str | None:
    """Returns the name of an image's folder if it is a synset, else None."""
    return parts[-2] if len(parts) > 1 and is_synset(parts[-2]) else None


def listed_synset(labels: Labels, parts: Parts, split: str) -> str | None:
    """Returns the synset that the label list of val has for an image, or None."""
    return (labels.stems or {}).get(imagenet_file(parts[-1])[0]) if split == "val" else None


def place_labelled(name: str, parts: Parts) -> tuple[str, str, int]:
    """Returns class, file name in the data set and `WHY_NOT` index of an image with the label `name`.

    As in a class folder, an ImageNet image has no class if its path proves a different synset.
    """
    labelled, proven = synset_of(name), proven_synset(parts)
    if labelled and proven and labelled != proven:
        return "", "/".join(parts), OTHER_CLASS
    return name, below_class(name, parts) if name else "/".join(parts), GOOD


def below_class(name: str, parts: Parts) -> str:
    """Returns the file name of an image in the data set: CLASS/ and the path below the folder of the class."""
    folder = name.replace("/", "_")
    folders = parts[:-1]
    start = folders.index(folder) + 1 if folder in folders else 0
    return "/".join((folder, *parts[start:]))
