"""Reads images and masks stored as files in `images/SPLIT/` and `masks/SPLIT/`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from focalnet_jax.data.decode import Picture, UnreadableImageError, read_file
from focalnet_jax.data.listing import list_folders, list_images
from focalnet_jax.data.mask_files import open_mask
from focalnet_jax.data.masks import IGNORED, StoredMask
from focalnet_jax.data.segment_classes import ADE20K, EXPECTED, SegmentClasses, read_segment_classes
from focalnet_jax.data.source import fingerprint_of
from focalnet_jax.errors import UserError, abbreviated, suggest

IMAGES, MASKS = "images", ("masks", "annotations")  # annotations: the name in ADE20K and mmsegmentation
CLASS_LIST = "classes.txt"  # read if `data.classes` is not set
LAYOUT = f"{IMAGES}/SPLIT/*.jpg and {MASKS[0]}/SPLIT/*.png with the same file names up to the suffix"
_SCANNED = 50  # number of masks that are read when the data is opened, to check their labels
_NAMED = 10  # largest number of folder names in a message


class PairFolder:
    """A split of images and masks, `PATH/images/SPLIT/**/NAME.jpg` and `PATH/masks/SPLIT/**/NAME.png`.

    An image and its mask have the same path in their folders, except for the suffix. Images without a mask and masks
    without an image are left out.

    Args:
      path: folder of the data.
      split: name of the split.
      classes: file with the classes, see `read_segment_classes`; None for `PATH/classes.txt`.
      reduce_zero_label: whether the stored label 0 means ignored; None: only for the classes of ADE20K.
      complete: whether an image without a mask is an error, because it would be missing in an evaluation.

    Attributes:
      class_names: names of the classes.
      palette: colours of the classes, `[K, 3]` uint8, or None.
      coding: coding of the masks, for `decode_pair`.
      note: a line that reports files that are left out and masks that seem wrong; empty if there are none.

    Raises:
      UserError: a folder is missing, no image has a mask, an image has no mask although `complete` is True, or the
        classes are unknown.
    """

    size = None  # images may have different sizes

    def __init__(
        self,
        path: str | None,
        split: str,
        classes: str | None = None,
        reduce_zero_label: bool | None = None,
        *,
        complete: bool = False,
    ):
        if not path or not split:
            raise UserError(f"data.source=folder needs data.path: set it to a directory with {LAYOUT}")
        images, masks = _split_folders(Path(path), split)
        found, stored = list_images(images), list_images(masks)
        by_stem, of_mask = _by_stem(images, found.images), _by_stem(masks, stored.images)
        paired = [stem for stem in by_stem if stem in of_mask]
        alone = [by_stem[stem] for stem in by_stem if stem not in of_mask]
        unused = [of_mask[stem] for stem in of_mask if stem not in by_stem]
        if not paired:
            _refuse_no_pairs(images, masks, alone, unused)
        if alone and complete:
            raise UserError(
                f"{len(alone)} of {len(by_stem)} images in {images} have no mask in {masks}, such as {alone[0]}: add "
                "the masks, or move the images away"
            )
        self._images, self._masks = images, masks
        self._files = [by_stem[stem] for stem in paired]  # relative paths, which need less memory
        self._stored = [of_mask[stem] for stem in paired]
        labels = self._scan()
        listed = _read_classes(Path(path), classes, labels)
        reduce = classes == ADE20K if reduce_zero_label is None else reduce_zero_label
        self.class_names, self.palette, self.coding = listed.names, listed.palette, listed.coding(reduce)
        self.fingerprint = fingerprint_of([*self._files, *self._stored, *self.class_names, repr(self.coding)])
        notes = [
            f"{images}: left out {len(alone)} images without a mask, such as {alone[0]}" if alone else "",
            f"{masks}: left out {len(unused)} masks without an image, such as {unused[0]}" if unused else "",
            f"{images}: left out {found.left_out_counts}" if found.left_out else "",
            f"{masks}: left out {stored.left_out_counts}" if stored.left_out else "",
            self._coding_warning(labels),
        ]
        self.note = "; ".join(filter(None, notes))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Picture, StoredMask]:
        return self.name(index), os.path.join(self._masks, self._stored[index])

    def name(self, index: int) -> str:
        """Returns the path of an image."""
        return os.path.join(self._images, self._files[index])

    def _scan(self) -> Counter[int | tuple[int, ...]]:
        """Reads some masks of the split, and returns the number of masks with each stored number or colour.

        Masks with more than `_SCANNED` colours are not counted.
        """
        labels = Counter()
        for index in np.unique(np.linspace(0, len(self) - 1, _SCANNED).astype(int)).tolist():
            try:
                mask = open_mask(read_file(os.path.join(self._masks, self._stored[index])))
            except UnreadableImageError:  # the loader reports unreadable masks
                continue
            if mask.mode in ("1", "L", "I", "I;16", "I;16B", "P"):
                labels.update(np.unique(np.asarray(mask)).astype(int).tolist())
            else:
                colours = mask.convert("RGB").getcolors(_SCANNED) or []
                labels.update(colour for _, colour in colours)
        return labels

    def _coding_warning(self, labels: Counter[int | tuple[int, ...]]) -> str:
        """Returns a warning if the scanned masks seem to have another coding than `self.coding`, else ""."""
        if self.coding.is_grey or IGNORED not in labels:
            return ""
        if set(labels) <= {0, IGNORED}:
            return (
                f"{self._masks}: the masks seem to contain only 0 and 255, but 255 means ignored; if 255 is a class, "
                "give grey colours in the class list, such as the lines background 0 0 0 and object 255 255 255"
            )
        if self.coding.reduce_zero_label and self.coding.num_classes not in labels:
            return (
                f"{self._masks}: the masks contain 255 but not the last label {self.coding.num_classes}; if 0 is a "
                "class in them, set --config.data.reduce_zero_label=False"
            )
        return ""


def _split_folders(root: Path, split: str) -> tuple[Path, Path]:
    """Returns the folders of the images and masks of a split; raises `UserError` if one is missing."""
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise UserError(f"data.path={root} {state}; expected a directory with {LAYOUT}")
    images = root / IMAGES
    folders, files = list_folders(root)
    held = abbreviated([entry.name for entry in folders], _NAMED)
    held = f"it contains {held}" if held else files.all_counts
    if not images.is_dir():
        raise UserError(f"{root} has no folder {IMAGES}; {held}: expected {LAYOUT}")
    kinds = [name for name in MASKS if (root / name).is_dir()]
    if not kinds:
        raise UserError(
            f"{root} has images but no masks; {held}: expected {LAYOUT} ({' or '.join(MASKS)}). To classify images, "
            "choose another recipe, such as configs/own_folder.py"
        )
    found = [root / name / split for name in kinds if (root / name / split).is_dir()]
    if not (images / split).is_dir() or not found:
        folder = images if not (images / split).is_dir() else root / kinds[0]
        names = [entry.name for entry in list_folders(folder)[0]]
        raise UserError(
            f"{folder} has no split {split!r}; it contains {abbreviated(names, _NAMED) or 'no folders'}: set "
            f"data.train_split and data.eval_split to existing folders.{suggest(split, names)}"
        )
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1]} may both contain the masks of {images / split}: move one away")
    return images / split, found[0]


def _by_stem(folder: Path, files: Sequence[str]) -> dict[str, str]:
    """Returns the path of each file relative to `folder`, by the same path without suffix.

    Raises:
      UserError: two files differ only in their suffixes.
    """
    found: dict[str, str] = {}
    for file in files:
        name = os.path.relpath(file, folder)
        stem = os.path.splitext(name)[0]
        if stem in found:
            raise UserError(
                f"{folder} contains {found[stem]} and {name}, and images and masks are matched by their names without "
                "suffix: rename or remove one"
            )
        found[stem] = name
    return found


def _refuse_no_pairs(images: Path, masks: Path, alone: Sequence[str], unused: Sequence[str]) -> None:
    if not alone or not unused:
        empty = images if not alone else masks
        raise UserError(f"{empty} contains no images; {list_images(empty).all_counts}: expected {LAYOUT}")
    raise UserError(
        f"no image in {images} has a mask in {masks} with the same name up to the suffix; there are {len(alone)} "
        f"images, such as {alone[0]}, and {len(unused)} masks, such as {unused[0]}: rename the masks"
    )


def _read_classes(root: Path, classes: str | None, labels: Counter[int | tuple[int, ...]]) -> SegmentClasses:
    """Returns the classes in the file `classes` or `root`/classes.txt.

    Raises:
      UserError: there is no such file. The message says how to write one for the labels in the scanned masks.
    """
    if classes is not None:
        return read_segment_classes(classes)
    if (root / CLASS_LIST).is_file():
        return read_segment_classes(root / CLASS_LIST)
    numbers = sorted(label for label in labels if isinstance(label, int) and label != IGNORED)
    colours = sorted(label for label in labels if isinstance(label, tuple))
    if colours:
        some = ", ".join(" ".join(map(str, colour)) for colour in colours[:3])
        lines = f"{len(colours)} colours (such as {some}): write one line NAME RED GREEN BLUE for each class"
    elif numbers:
        lines = f"labels {numbers[0]} to {numbers[-1]}: write the names of labels 0 to {numbers[-1]}, one per line"
    else:
        lines = f"no labels that can be read: write {EXPECTED}"
    raise UserError(
        f"the names of the classes are unknown, because there is no {root / CLASS_LIST} and data.classes is not set. "
        f"The first masks have {lines}"
    )
