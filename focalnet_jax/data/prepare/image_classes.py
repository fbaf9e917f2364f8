"""Determines the class of an image, and its file name in the data set, from its path, label and the label list."""

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

Parts = tuple[str, ...]  # parts of a path


def place_imagenet(
    parts: Parts, candidates: Sequence[str | frozenset[str] | None], *, test: bool = False
) -> tuple[str, str, int]:
    """Returns class, file name in the data set and `WHY_NOT` index of an ImageNet image.

    The class is the only one that the file name and all `candidates` allow, or "" if the image is not an example.

    Args:
      parts: parts of the image's path.
      candidates: class according to the folder, the label list and the label. An entry is a set if several classes are
        possible, and None if the class is unknown.
      test: whether the image is in the test split, whose images have no labels.
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
    """Returns the synset that an image's path or the label list proves, or "" if nothing does or the proofs differ.

    Args:
      parts: parts of the image's path.
      listed: synset of the image in the label list, or None.
      name: class of the image's label. For ImageNet's first validation image, whose class is known, a correct label
        is also a proof. A wrong label is no contradiction here, because other images may have this file name, see
        `numbering.check_first`.
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
    """Returns the synset of an image in the label list of val, or None if it is not listed or `split` is not val."""
    return (labels.stems or {}).get(imagenet_file(parts[-1])[0]) if split == "val" else None


def place_labelled(name: str, parts: Parts) -> tuple[str, str, int]:
    """Returns class, file name in the data set and `WHY_NOT` index of an image with the label `name`.

    The image is rejected if its path proves a different synset, like an image in the wrong class folder.
    """
    labelled, proven = synset_of(name), proven_synset(parts)
    if labelled and proven and labelled != proven:
        return "", "/".join(parts), OTHER_CLASS
    return name, below_class(name, parts) if name else "/".join(parts), GOOD


def below_class(name: str, parts: Parts) -> str:
    """Returns the file name of an image in the data set, CLASS/PATH.

    PATH is the part of the path below the class folder, or the whole path if there is no class folder.
    """
    folder = name.replace("/", "_")
    folders = parts[:-1]
    start = folders.index(folder) + 1 if folder in folders else 0
    return "/".join((folder, *parts[start:]))
