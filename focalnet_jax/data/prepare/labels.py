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

_LONGEST_NAME = 200


@dataclass(frozen=True)
class Labels:
    """Interpretation of labels."""

    names: tuple[str, ...] | None = None  # class name by numeric label; None if numbers are the class names
    stems: Mapping[str, str] | None = None  # class by file stem
    image_column: str | None = None  # of Parquet files; None to find it by type and name
    label_column: str | None = None  # likewise
    ordered: bool = False  # whether the user gave the order of `names`

    def class_of(self, label: int | float | str | bool | None) -> tuple[str, int]:
        """Returns the class name of a label, or "", and a place in `WHY_NOT`."""
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
        """Returns whether `names` holds a class, as it is or as another name of its synset."""
        return name in self._every_name or not self._every_name.isdisjoint(synsets_named(name))

    @cached_property
    def _every_name(self) -> frozenset[str]:
        """Class names and all their synsets."""
        return frozenset(self.names or ()).union(*map(synsets_named, self.names or ()))


def _normalized(
    label: int | float | str | bool | None, *, text_of_floats: bool = True
) -> int | float | str | bool | None:
    """Returns a label as an integer if it is one in another type, such as text; text without extra spaces.

    `text_of_floats` is whether text such as 65.0 is an integer too; without a list of classes it is a name.
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
    """Returns a label as text; equal numbers of different types give the same text."""
    return str(_normalized(label))[:_LONGEST_NAME]


@cache
def _synsets_by_lemmas() -> dict[str, frozenset[str]]:
    """Returns ImageNet-1K synsets by all lemmas and by the first lemma, which several synsets may share."""
    found: dict[str, set[str]] = {}
    for synset, lemmas in class_list(NUM_1K):
        for name in {lemmas.lower(), lemmas.split(",")[0].lower()}:
            found.setdefault(name, set()).add(synset)
    return {name: frozenset(synsets) for name, synsets in found.items()}


def synset_named(label: str) -> str:
    """Returns the ImageNet-1K synset of a label that is a synset or its lemmas; other labels are returned unchanged."""
    synsets = synsets_named(label)
    return next(iter(synsets)) if len(synsets) == 1 else label


def synsets_named(label: str) -> frozenset[str]:
    """Returns the ImageNet-1K synsets of a label, several for a word such as crane; else the label itself."""
    if synset := synset_of(label):
        return frozenset({synset})
    return _synsets_by_lemmas().get(label.replace("_", " ").lower()) or frozenset({label})


def is_imagenet_order(names: tuple[str, ...]) -> bool:
    """Returns whether nearly all class names are the synsets or lemmas of ImageNet-1K, in its order."""
    known = [synset for synset, _ in class_list(NUM_1K)]
    if len(names) != NUM_1K:
        return False
    meant = [synset_named(name) for name in names]
    wrong = sum(found in set(known) and found != synset for found, synset in zip(meant, known, strict=True))
    same = sum(found == synset for found, synset in zip(meant, known, strict=True))
    return wrong == 0 and same > 0.9 * NUM_1K


def followed(stated: tuple[str, ...], given: tuple[str, ...]) -> tuple[str, ...] | None:
    """Returns the class of the list `given` for each number of a file that states class names; None if they differ.

    Two names match if they are equal or name the same synset. In the order of the list, names that the file repeats
    match any. Only a first class for the background may be missing in the list. Placeholders, such as `0` or `class_0`,
    are numbers.
    """
    if is_imagenet_order(stated):  # in words, which two classes may share
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
    starts = {int(found[1]) - place if found else None for place, found in enumerate(numbers)}
    return given[: len(stated)] if fits and starts in ({0}, {1}) else None
