"""Checks the indices of all sources before shards are written: labels, classes, duplicate and misplaced images."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from pathlib import PurePosixPath

import numpy as np

from focalnet_jax.data.prepare.containers import Container
from focalnet_jax.data.prepare.index import GOOD, NO_IMAGE, NOT_LISTED, OTHER_CLASS, Index
from focalnet_jax.data.prepare.kinds import Sources
from focalnet_jax.data.prepare.layouts import no_class_folders
from focalnet_jax.data.prepare.naming import (
    NUM_IMAGES,
    SPLITS,
    holds_images_only,
    in_order,
    is_evaluation_file,
    is_imagenet_file,
)
from focalnet_jax.data.prepare.samples import TEXT_LABELS
from focalnet_jax.data.source import are_numbers
from focalnet_jax.errors import UserError, abbreviated

_MOST_NUMBERS = 100_000  # limit for the number of numeric classes; larger labels seem to be ids


def found_class_names(sources: Sources, indices: Sequence[Index]) -> tuple[str, ...]:
    """Returns the sorted class names of the training images.

    If all names are numbers, they are sorted by value. Sources without training images are an evaluation set, whose
    images then determine the classes. Numeric labels of samples or rows without class names stay the same: the classes
    are named "0" to the largest label, and class "7" has label 7.

    Raises:
      UserError: a class folder is empty, or the labels cannot be classes.
    """
    train = SPLITS.index("train")
    refuse_empty_classes(sources, indices, "fill it, remove it, or give --classes FILE")
    _refuse_captions(indices)
    trains = any(index.is_good(train).any() for index in indices)
    found = set().union(*(index.class_names(train if trains else None) for index in indices))
    numbers = {name for name in found if name.isascii() and name.isdigit()}
    if numbers and all(container.holds != "images" for container in sources.containers):
        if numbers != found:
            raise UserError(
                f"some labels are numbers, such as {min(numbers)}, others are names, such as {min(found - numbers)}: "
                "give --classes FILE with the class names in the order of the numbers"
            )
        largest = max(map(int, numbers))
        if largest >= _MOST_NUMBERS:
            raise UserError(f"label {largest} is too large for a class index: give --classes FILE, or other labels")
        print(
            f"labels are numbers without names: the classes are named 0 to {largest}; --classes FILE gives other names"
        )
        return tuple(map(str, range(largest + 1)))
    val = set().union(*(index.class_names(SPLITS.index("val")) for index in indices))
    if trains and numbers == found:
        refuse_padded(indices, tuple(found))
        _refuse_other_folders(val, found)
    if trains and (others := in_order(val - found)):
        print(f"note: val has classes that train lacks ({abbreviated(others)}): their images are rejected")
    return in_order(found)


def refuse_folders_of_images(sources: Sources, indices: Sequence[Index]) -> None:
    """Raises `UserError` if the only class of a split is a folder such as `images`, which --classes does not list."""
    for split in ("train", "val"):
        found: dict[str, tuple[Container, Index]] = {}
        for container, index in zip(sources.containers, indices, strict=True):
            if container.holds == "images" and not container.imagenet:
                found |= dict.fromkeys(index.class_names(SPLITS.index(split)), (container, index))
        for name, (container, index) in found.items() if len(found) == 1 else ():
            if holds_images_only(name) and name not in (sources.classes or ()):
                chosen = index.members["file"][index.is_good(SPLITS.index(split))]
                files = [file.decode(errors="replace") for file in chosen.tolist()]
                raise UserError(no_class_folders(container.title, split, files))


def refuse_padded(indices: Sequence[Index], classes: Sequence[str]) -> None:
    """Raises `UserError` if a class folder and a name in `classes` are two spellings of a number, such as 07 and 7."""
    names = {name.decode() for index in indices for name in np.unique(index.members["class_name"]).tolist()}
    numbers = {name.lstrip("0"): name for name in classes if are_numbers([name])}
    for name in sorted(name for name in names - {*classes} if are_numbers([name])):
        if other := numbers.get(name.lstrip("0")):
            raise UserError(
                f"the classes {name} and {other} are the same number: use the same spelling in all splits and in the "
                "list of --classes"
            )


def _refuse_other_folders(val: Set[str], found: Set[str]) -> None:
    """Raises `UserError` if val has numeric class folders that train lacks.

    A number may then mean different classes in train and val.
    """
    if others := in_order(val - found):
        raise UserError(
            f"val has class folders that train lacks, such as {others[0]}, so a number may mean different classes in "
            "train and val: correct the folders, or give --classes FILE with all numbers"
        )


def refuse_empty_classes(sources: Sources, indices: Sequence[Index], advice: str) -> None:
    """Raises `UserError` if the folder or tar of a class in train contains no usable images.

    A class whose images are rejected because of their names is not empty. `advice` is the end of the message.
    """
    for container, index in zip(sources.containers, indices, strict=True):
        if container.class_name and container.split == "train" and not any(index.members["why_not"] == GOOD):
            if (index.members["why_not"] == OTHER_CLASS).any():
                continue  # the class has images, which are rejected because of their names
            if any(name.endswith(b".parquet") for name in index.members["name"].tolist()):
                advice = "prepare Parquet files with the kind parquet"
            raise UserError(f"class {container.title} contains no images{_only_kinds(index)}: {advice}")


def _only_kinds(index: Index) -> str:
    kinds = Counter(PurePosixPath(name.decode(errors="replace")).suffix for name in index.members["name"].tolist())
    return f", only {abbreviated([f'{count} {kind}' for kind, count in kinds.most_common()])}" if kinds else ""


def _refuse_captions(indices: Sequence[Index]) -> None:
    """Raises `UserError` if the distinct labels are more than half the labels in .txt files, as with captions."""
    texts = sum(index.skipped.get(TEXT_LABELS, 0) for index in indices)
    different = len({name for index in indices for name in np.unique(index.members["class_name"]).tolist()})
    if texts > 3 and different > texts / 2:
        raise UserError(
            f"the .txt files of {texts} images contain {different} different texts, which seem to be captions and not "
            "classes: add .cls files, or a label in .json"
        )


def check_label_list(sources: Sources, indices: Sequence[Index]) -> None:
    """Raises `UserError` if the label list lacks validation images, or has a wrong number of lines."""
    listed = sources.val_labels
    count = sum(int(_is_image(index, "val").sum()) for index in indices)
    whole = NUM_IMAGES["val"]
    if listed and listed.by_line and len(listed.synsets) not in (count, whole) and count < len(listed.synsets):
        raise UserError(
            f"{listed.path} has {len(listed.synsets):,} lines, one per image, but val has {count:,} images, so the "
            f"image of each line is unknown: expected {count:,} or {whole:,} lines, or a list with file names"
        )
    for container, index in zip(sources.containers, indices, strict=True):
        if container.imagenet and container.holds == "images":
            is_val = index.members["split"] == SPLITS.index("val")
            without = index.members["name"][is_val & (index.members["why_not"] == NOT_LISTED)]
            if len(without):
                raise UserError(
                    f"{container.title} contains {len(without)} images that the label list lacks, such as "
                    f"{without[0].decode(errors='replace')}: give the complete list with --val-labels"
                )


def _is_image(index: Index, split: str) -> np.ndarray:
    """Returns whether each member is an image of a split, including rejected images, `[N]` bool."""
    return (index.members["split"] == SPLITS.index(split)) & (index.members["why_not"] != NO_IMAGE)


def refuse_repeated(sources: Sources, indices: Sequence[Index]) -> None:
    """Raises `UserError` if a shard, Parquet file or ImageNet-1K image occurs twice, as in a tar and its copy."""
    _refuse_same_files(sources, indices)
    titles, files = [], []
    for container, index in zip(sources.containers, indices, strict=True):
        if container.imagenet:
            found = index.members["file"][index.members["why_not"] == GOOD]
            titles += [container.title] * bool(len(found))
            files.append(found)
    if not files:
        return
    copies = [np.flatnonzero(np.char.find(found, b")") >= 0) for found in files]  # names such as NAME (1).JPEG
    files = [_without_copies(found, copied) for found, copied in zip(files, copies, strict=True)]
    names, counts = np.unique(np.concatenate(files), return_counts=True)
    repeated = [name for name in names[counts > 1].tolist() if is_imagenet_file(name.decode(errors="replace"))]
    if repeated:
        name = repeated[0]
        holding = [title for title, found in zip(titles, filter(len, files), strict=True) if (found == name).any()]
        raise UserError(
            f"{len(repeated)} images occur more than once, such as {name.decode(errors='replace')} in "
            f"{' and in '.join(holding[:2])}: give only one of these sources"
        )


def _without_copies(files: np.ndarray, copied: np.ndarray) -> np.ndarray:
    """Returns file names without the number, such as (1), that a browser appends to the names at indices `copied`."""
    files = files.copy()
    files[copied] = [re.sub(rb" ?\(\d+\)(?=\.\w+$)", b"", name) for name in files[copied].tolist()]
    return files


def _refuse_same_files(sources: Sources, indices: Sequence[Index]) -> None:
    """Raises `UserError` if two shards or Parquet files have the same content, whatever their names."""
    alike: dict[tuple[int | None, bytes], list[str]] = {}
    for container, index in zip(sources.containers, indices, strict=True):
        if container.holds != "images" and len(index):
            alike.setdefault((container.size, index.members["size"].tobytes()), []).append(container.path)
    for paths in alike.values():
        seen: dict[str, str] = {}
        for path in paths if len(paths) > 1 else ():
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest in seen:
                raise UserError(f"{seen[digest]} and {path} are the same file: remove one of them")
            seen[digest] = path


def refuse_validation_in_train(sources: Sources, indices: Sequence[Index]) -> None:
    """Raises `UserError` if train contains ImageNet validation images.

    If val also contains ImageNet training images, the data set defines its own splits, like Imagenette, and only a note
    is printed.
    """
    count, example = 0, ""
    for container, files in _imagenet_files(sources, indices, "train"):
        evaluated = files[np.char.startswith(files, b"ILSVRC2012_val_")]
        count += len(evaluated)
        if len(evaluated) and not example:
            example = f"{evaluated[0].decode()} in {container.title}"
    if not count:
        return
    names = (name.decode() for _, files in _imagenet_files(sources, indices, "val") for name in files.tolist())
    if not any(is_imagenet_file(name) and not is_evaluation_file(name) for name in names):
        raise UserError(
            f"train contains {count} validation images, such as {example}: move them to val, or remove them"
        )
    print(
        f"note: train contains {count} images with names of ImageNet validation images, and val contains images with "
        "names of training images"
    )


def _imagenet_files(sources: Sources, indices: Sequence[Index], split: str) -> Iterator[tuple[Container, np.ndarray]]:
    """Yields (container, file names in the data set) for each ImageNet container with images of a split."""
    for container, index in zip(sources.containers, indices, strict=True):
        chosen = index.is_good(SPLITS.index(split))
        if container.imagenet and chosen.any():
            yield container, index.members["file"][chosen]
