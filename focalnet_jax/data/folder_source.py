"""Reads data sets stored as image files in `SPLIT/CLASS/` folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from focalnet_jax.data.decode import Picture
from focalnet_jax.data.listing import Listing, list_folders, list_images
from focalnet_jax.data.source import Label, are_numbers, fingerprint_of
from focalnet_jax.data.split_names import split_named
from focalnet_jax.errors import UserError, abbreviated, suggest

_NAMED = 10  # largest number of folder names in a message


class FolderSource:
    """A split with one folder per class, `PATH/SPLIT/CLASS/**/*.jpg` (or any of `IMAGE_SUFFIXES`).

    Classes are sorted by folder name, numerically if all names are numbers. A label is the index of a class in that
    order. A folder without images is a class without examples.

    Attributes:
      empty: the class folders without images, with a description of their contents.
      note: the numbers of unused files of the split by kind, or an empty string if all files are used.

    Raises:
      UserError: the path, the split or its class folders are missing, the split has no images, or the layout is
        different.
    """

    def __init__(self, path: str | None, split: str):
        if path is None:
            raise UserError("data.source=folder needs data.path: set it to a directory with one folder per split")
        if not path or not split:
            raise UserError(f"data.path is {path!r} and the split {split!r}; expected a directory and a split's name")
        folder = _split_folder(Path(path), split)
        classes, outside = list_folders(folder)
        _check_class_folders(folder, classes, outside)
        names = [entry.name for entry in classes]
        # Files are in the order of folder names as text even if classes are sorted as numbers, because fingerprints of
        # existing runs depend on it.
        self.class_names = tuple(sorted(names, key=lambda name: (int(name), name)) if are_numbers(names) else names)
        self._folder = folder
        self._files: list[str] = []  # relative paths, because millions of absolute paths fill the host's memory
        labels: list[int] = []
        left_out = outside.elsewhere("outside the class folders")
        outputs = {name: label for label, name in enumerate(self.class_names)}
        self.empty: dict[Path, str] = {}
        below: set[str] = set()  # names of the subfolders of class folders; "" for images directly in a class folder
        for entry in classes:
            found = list_images(entry)
            if not found.images:
                self.empty[entry] = found.all_counts
            start = len(os.path.join(entry, ""))
            inside = {file[start:].rpartition(os.sep)[0].partition(os.sep)[0] for file in found.images}
            if len(inside) > 1 and inside <= outputs.keys():
                raise UserError(
                    f"class folder {entry} seems to be a copy of the data set, because it contains folders named like "
                    f"classes, such as {abbreviated(sorted(inside), 2)}: move it away"
                )
            below |= inside
            self._files += [os.path.relpath(file, folder) for file in found.images]
            labels += [outputs[entry.name]] * len(found.images)
            left_out += replace(found, images=[])
        if not self._files:
            raise UserError(f"class folder {classes[0]} contains no images; {self.empty[classes[0]]}: add images")
        if len(below) > 1 and all(map(split_named, below)):
            raise UserError(
                f"the class folders in {folder} contain folders of splits, {abbreviated(sorted(below), _NAMED)}; "
                "expected SPLIT/CLASS/*.jpg, not CLASS/SPLIT/*.jpg: move the folders"
            )
        self._labels = np.array(labels, np.int32)
        self.fingerprint = fingerprint_of(self._files)
        self.note = f"{folder}: left out {left_out.left_out_counts}" if left_out.left_out else ""

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Picture, Label]:
        return self.name(index), self._labels[index]

    @property
    def labels(self) -> np.ndarray:
        """Labels of all examples, `[N]` int32."""
        return self._labels

    def name(self, index: int) -> str:
        """Returns the path of an image."""
        return os.path.join(self._folder, self._files[index])


def _split_folder(root: Path, split: str) -> Path:
    """Returns the folder of a split.

    Raises:
      UserError: the folder is missing. The message names a nearby folder that contains the split, or the contents of
        `root`.
    """
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise UserError(f"data.path={root} {state}; expected a directory that contains {split}/CLASS/*.jpg")
    folder = root / split
    if folder.is_dir():
        return folder
    folders, files = list_folders(root)
    near = [entry for entry in folders if (entry / split).is_dir()]
    near += [parent for parent in root.absolute().parents[:2] if (parent / split).is_dir()]
    names = [entry.name for entry in folders]
    held = f"it contains {abbreviated(names, _NAMED)}" if names else files.all_counts
    if near:
        todo = f"set data.path={near[0]}, which has this split"
    else:
        todo = f"create {folder}, or set data.train_split and data.eval_split to existing folders."
        todo += suggest(split, names)
        if _are_classes(folders):
            todo = f"if these are classes, --config.data.held_out=0.2 holds out a fifth of the images; if not, {todo}"
    raise UserError(f"{root} has no split {split!r}; {held}: {todo}")


def _are_classes(folders: Sequence[Path]) -> bool:
    """Returns whether the first folder has images directly in it, and no folder is named like a split."""
    if not folders or any(split_named(entry.name) for entry in folders):
        return False
    return any(Path(file).parent == folders[0] for file in list_images(folders[0]).images)


def _check_class_folders(folder: Path, classes: Sequence[Path], outside: Listing) -> None:
    """Raises `UserError` unless the folders of a split can be classes.

    The errors are:
      a broken link;
      no folders, or only folders that are named like splits;
      a folder whose name is not printable;
      a single folder that contains several folders and no images, because those may be the classes.
    """
    if outside.broken:  # a missing class would change the labels of others
        raise UserError(f"{outside.broken[0]} is a link to a missing file or folder: repair or remove it")
    names = [entry.name for entry in classes]
    if not names:
        others = [entry.name for entry in list_folders(folder.parent)[0] if not split_named(entry.name)]
        is_class = outside.images and others
        hint = f". If {folder.name} is a class, like {others[0]}, rename {folder}" if is_class else ""
        raise UserError(f"{folder} has no class folders; expected {folder}/CLASS/*.jpg; {outside.all_counts}{hint}")
    if all(map(split_named, names)):
        raise UserError(
            f"{folder} contains {abbreviated(names, _NAMED)}, which are splits, not classes: set data.path={folder}, "
            "and data.train_split and data.eval_split to the folders that contain the classes"
        )
    odd = [name for name in names if not name.isprintable()]
    if odd:
        raise UserError(f"class folder {odd[0]!r} in {folder} has a name that is not printable UTF-8: rename it")
    inside, files = list_folders(classes[0]) if len(classes) == 1 else ([], outside)
    if len(inside) > 1 and not files.images:
        raise UserError(
            f"{folder} contains only the folder {names[0]}, which contains only folders "
            f"({abbreviated([entry.name for entry in inside], _NAMED)}): if they are the classes, move them to {folder}"
        )
