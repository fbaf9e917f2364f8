"""Maps the labels in a source (numbers, synsets, names) to class names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from focalnet_jax.data.class_lists import NUM_1K, class_list
from focalnet_jax.data.prepare.index import GOOD, NO_LABEL, OUTSIDE
from focalnet_jax.data.prepare.naming import is_synset

_LONGEST_NAME = 200


@dataclass(frozen=True)
class Labels:
    """Interpretation of labels."""

    names: tuple[str, ...] | None = None  # class name by numeric label; None if numbers are the class names
    stems: Mapping[str, str] | None = None  # class by file stem
    image_column: str | None = None  # of Parquet files; None to find it by type and name
    label_column: str | None = None  # likewise

    def class_of(self, label: int | float | str | bool | None) -> tuple[str, int]:
        """Returns the class name of a label, or "", and a place in `WHY_NOT`."""
        if isinstance(label, str):
            label = " ".join(label.split())
            if label.lstrip("-").isascii() and label.lstrip("-").isdigit() and len(label) < 10:
                label = int(label)
        if isinstance(label, float):  # integer columns with missing values are read as floats
            label = None if math.isnan(label) else int(label) if label.is_integer() else label
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


@cache
def _synsets_by_lemmas() -> dict[str, str]:
    """Returns ImageNet-1K synsets by all lemmas and by the first lemma, without those that two synsets share."""
    found: dict[str, set[str]] = {}
    for synset, lemmas in class_list(NUM_1K):
        for name in {lemmas.lower(), lemmas.split(",")[0].lower()}:
            found.setdefault(name, set()).add(synset)
    return {name: next(iter(synsets)) for name, synsets in found.items() if len(synsets) == 1}


def synset_named(label: str) -> str:
    """Returns the ImageNet-1K synset of a label that is a synset or its lemmas; other labels are returned unchanged."""
    if is_synset(label):
        return label
    name = label.replace("_", " ").lower()
    return _synsets_by_lemmas().get(name) or label


def is_imagenet_order(names: tuple[str, ...]) -> bool:
    """Returns whether class names are ImageNet-1K's in its order, as synsets or lemmas, nearly all known."""
    known = [synset for synset, _ in class_list(NUM_1K)]
    if len(names) != NUM_1K:
        return False
    meant = [synset_named(name) for name in names]
    wrong = sum(found in set(known) and found != synset for found, synset in zip(meant, known, strict=True))
    same = sum(found == synset for found, synset in zip(meant, known, strict=True))
    return wrong == 0 and same > 0.9 * NUM_1K
