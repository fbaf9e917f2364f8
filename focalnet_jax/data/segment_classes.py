"""The classes of segmentation and their colours, from a user's class list or the list of ADE20K."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

from focalnet_jax.data.class_files import read_classes, read_list
from focalnet_jax.data.masks import IGNORED, MOST_CLASSES, Colour, MaskCoding
from focalnet_jax.errors import UserError

ADE20K = "ade20k"  # value of `data.classes` that means the built-in list
EXPECTED = "one class per line, NAME, or NAME RED GREEN BLUE in every line"
IGNORED_NAME = "ignored"  # lines with this name give colours of ignored pixels
_SEPARATOR = r"[\s,;]+"
_COLOUR = _SEPARATOR.join(rf"(?P<{channel}>\d{{1,3}})" for channel in ("red", "green", "blue"))
_NAME_FIRST = re.compile(rf"(?P<name>\S.*?){_SEPARATOR}{_COLOUR}")
_COLOUR_FIRST = re.compile(rf"{_COLOUR}{_SEPARATOR}(?P<name>\S.*)")  # as in CamVid's label_colors.txt
_FORMS = (_NAME_FIRST, _COLOUR_FIRST)
_HEADER = re.compile(rf"\w+{_SEPARATOR}r(ed)?{_SEPARATOR}g(reen)?{_SEPARATOR}b(lue)?", re.IGNORECASE)


@dataclass(frozen=True)
class SegmentClasses:
    """The classes of segmentation, in the order of their numbers.

    Attributes:
      names: name of each class.
      colours: colour of each class; empty if the classes have no colours.
      ignored: colours of ignored pixels in masks that store colours.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...] = ()
    ignored: tuple[Colour, ...] = ()

    @property
    def palette(self) -> np.ndarray | None:
        """Colours of the classes, `[K, 3]` uint8, or None if the classes have no colours."""
        return np.array(self.colours, np.uint8) if self.colours else None

    def coding(self, reduce_zero_label: bool) -> MaskCoding:
        """Returns the coding of masks of these classes. If a colour is repeated, masks store numbers, not colours."""
        colours = self.colours + self.ignored
        unique = bool(self.colours) and len(set(colours)) == len(colours)
        return MaskCoding(
            len(self.names), reduce_zero_label, self.colours if unique else (), self.ignored if unique else ()
        )


@cache
def ade20k_classes() -> SegmentClasses:
    """Returns the 150 classes of ADE20K's SceneParse150 with the colours in which they are usually drawn."""
    path = resources.files("focalnet_jax.data").joinpath("classes/ade20k.txt")
    return _with_colours(path.read_text("utf-8").splitlines(), "ade20k.txt")


def read_segment_classes(path: str | Path) -> SegmentClasses:
    """Returns the classes in a file, or those of ADE20K if `path` is "ade20k".

    Formats: those of `class_files.read_classes`; or lines `NAME RED GREEN BLUE` or `RED GREEN BLUE NAME`,
    separated by white space, commas or semicolons. Lines with the name `ignored` give colours of ignored pixels.

    Raises:
      UserError: the file cannot be read, has a different format, repeats a class, or has too many classes.
    """
    if str(path) == ADE20K:
        return ade20k_classes()
    path = Path(path).expanduser()
    lines = [line.strip() for line in read_list(path).rstrip().split("\n")]
    classes = _with_colours(lines, path) if _coloured(lines) else SegmentClasses(read_classes(path))
    repeated = [name for name, count in Counter(classes.names).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: expected each class once; {repeated[0]} is repeated")
    if len(classes.names) > MOST_CLASSES:
        raise UserError(
            f"{path} has {len(classes.names)} classes; at most {MOST_CLASSES} are supported, because {IGNORED} means "
            "ignored"
        )
    return classes


def _coloured(lines: Sequence[str]) -> bool:
    return any(form.fullmatch(line) for line in lines for form in _FORMS)


def _with_colours(lines: Sequence[str], path: str | Path) -> SegmentClasses:
    """Returns the classes in lines with colours; raises `UserError` if a line has no valid colour."""
    if _HEADER.fullmatch(lines[0]):  # as in CamVid's class_dict.csv
        lines = lines[1:]
    form = _COLOUR_FIRST if all(_COLOUR_FIRST.fullmatch(line) for line in lines) else _NAME_FIRST
    names, colours, ignored = [], [], []
    for line in lines:
        match = form.fullmatch(line)
        colour = tuple(int(match[channel]) for channel in ("red", "green", "blue")) if match else (-1,)
        if not 0 <= max(colour) <= 255:
            raise UserError(f"{path}: {line[:60]!r} has no colour with numbers from 0 to 255; expected {EXPECTED}")
        if match["name"] == IGNORED_NAME:
            ignored.append(colour)
        else:
            names.append(match["name"])
            colours.append(colour)
    if not names:
        raise UserError(f"{path} contains no classes; expected {EXPECTED}")
    return SegmentClasses(tuple(names), tuple(colours), tuple(ignored))
