"""Maps the labels in a source (numbers, synsets, names) to class names."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from focalnet_jax.data.class_lists import NUM_1K, class_list, synset_of
from focalnet_jax.data.prepare.index import GOOD, NO_LABEL, OUTSIDE

_LONGEST_NAME = 200  # characters


@dataclass(frozen=True)
class Labels:
    """How to interpret the labels of a source."""

    names: tuple[str, ...] | None = None  # class name by numeric label; None if numbers are the class names
    stems: Mapping[str, str] | None = None  # class by file name without suffix, from the label list of val
    image_column: str | None = None  # Parquet column of images; None to find it by type and name
    label_column: str | None = None  # Parquet column of labels; None to find it by type and name
    ordered: bool = False  # whether the user gave `names` with --classes

    def class_of(self, label: int | float | str | bool | None) -> tuple[str, int]:
        """Returns the class name of a label and an index in `WHY_NOT`; the name is "" if the label means no class."""
        label = _normalized(label, text_of_floats=self.names is not None)
        if label is None or label == "" or label == -1:
            return "", NO_LABEL
        if isinstance(label, bool):
            return str(label).lower(), GOOD
        if isinstance(label, float):
            return "", OUTSIDE
        if isinstance(label, str):
            return (label, GOOD) if len(label) <= _LONGEST_NAME else ("", OUTSIDE)
        if label < 0 or (self.names and label >= len(self.names)):
            return "", OUTSIDE
        return (self.names[label] if self.names else str(label)), GOOD

    def lists(self, name: str) -> bool:
        """Returns whether a class in `names` has this name, or a name that means the same synset."""
        return name in self._every_name or not self._every_name.isdisjoint(synsets_named(name))

    @cached_property
    def _every_name(self) -> frozenset[str]:
        """All class names, and the synsets that they mean."""
        return frozenset(self.names or ()).union(*map(synsets_named, self.names or ()))


def _normalized(
    label: int | float | str | bool | None, *, text_of_floats: bool = True
) -> int | float | str | bool | None:
    """Returns a label in its simplest type.

    Integers in another type, such as "65" or 65.0, become `int`. NaN becomes None. Extra spaces in strings are removed.
    A string such as "65.0" becomes an integer only if `text_of_floats`; without a list of classes it is a class name.
    """
    if isinstance(label, str):
        label = " ".join(label.split())
        if text_of_floats and re.fullmatch(r"\d{1,9}\.0+", label, re.ASCII):
            label = label.partition(".")[0]
        if re.fullmatch(r"-?\d{1,9}", label, re.ASCII):
            label = int(label)
    if isinstance(label, float):  # integer columns with missing values are read as floats
        label = None if math.isnan(label) else int(label) if label.is_integer() else label
    return label


def label_text(label: int | float | str | bool | None) -> str:
    """Returns a label as a string of at most 200 characters, the same for equal numbers of different types."""
    return str(_normalized(label))[:_LONGEST_NAME]


@cache
def _synsets_by_lemmas() -> dict[str, frozenset[str]]:
    """Returns ImageNet-1K's synsets by name, in lower case. A name is the list of all lemmas, or the first lemma."""
    found: dict[str, set[str]] = {}
    for synset, lemmas in class_list(NUM_1K):
        for name in {lemmas.lower(), lemmas.split(",")[0].lower()}:
            found.setdefault(name, set()).add(synset)
    return {name: frozenset(synsets) for name, synsets in found.items()}


def synset_named(label: str) -> str:
    """Returns the ImageNet-1K synset that a label means, or the label itself if it means none or several."""
    synsets = synsets_named(label)
    return next(iter(synsets)) if len(synsets) == 1 else label


def synsets_named(label: str) -> frozenset[str]:
    """Returns the set of synsets that a label may mean: a synset id in the label, or ImageNet-1K's synsets of the name.

    For example, "crane" means two synsets. If the label means no synset, the set contains the label itself.
    """
    if synset := synset_of(label):
        return frozenset({synset})
    return _synsets_by_lemmas().get(label.replace("_", " ").lower()) or frozenset({label})


def is_imagenet_order(names: tuple[str, ...]) -> bool:
    """Returns whether the names are those of ImageNet-1K's classes in its order, as synsets or lemmas.

    More than 900 of the 1000 names must mean the class at their position. The others may be unknown, but none may mean
    a different class.
    """
    known = [synset for synset, _ in class_list(NUM_1K)]
    if len(names) != NUM_1K:
        return False
    meant = [synset_named(name) for name in names]
    wrong = sum(found in set(known) and found != synset for found, synset in zip(meant, known, strict=True))
    same = sum(found == synset for found, synset in zip(meant, known, strict=True))
    return wrong == 0 and same > 0.9 * NUM_1K


def followed(stated: tuple[str, ...], given: tuple[str, ...]) -> tuple[str, ...] | None:
    """Matches the class names in a file with the names of --classes.

    Two names match if they are equal or mean the same synset. If the file has the order of `given`, a name that occurs
    several times in the file matches any name. The first class in the file may be missing in `given`, as the class for
    the background. Placeholders, such as "0" or "class_0", are indices in `given`, counted from 0 or 1.

    Args:
      stated: class name of each number in the file.
      given: class names of --classes.

    Returns:
      The class of each number in the file, or None if the names do not match.
    """
    if is_imagenet_order(stated):  # synsets are unique, unlike names such as crane
        stated = tuple(synset for synset, _ in class_list(NUM_1K))
    counts = Counter(stated)
    fits = len(stated) <= len(given)
    if fits and all(
        counts[name] > 1 or name == other or not synsets_named(name).isdisjoint(synsets_named(other))
        for name, other in zip(stated, given, strict=False)
    ):
        return given[: len(stated)]
    by_synset: dict[str, set[str]] = {}
    for name in given:
        for synset in synsets_named(name):
            by_synset.setdefault(synset, set()).add(name)
    found = []
    for name in stated:
        others = {name} if name in given else set().union(*(by_synset.get(key, set()) for key in synsets_named(name)))
        found.append(others.pop() if len(others) == 1 else None)
    if len(found) > 1 and found[0] is None:
        found[0] = stated[0]
    if None not in found and len(set(found)) == len(found):
        return tuple(found)
    numbers = [re.fullmatch(r"\D*?0*(\d+)", name) for name in stated]
    starts = {int(found[1]) - index if found else None for index, found in enumerate(numbers)}
    return given[: len(stated)] if fits and starts in ({0}, {1}) else None
