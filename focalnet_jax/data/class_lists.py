"""The classes of ImageNet-1K and ImageNet-22K, in the order of the outputs of the released classifiers.

The files `classes/*.txt` have one line per class, with its synset id and lemmas. `scripts/class_lists.py` generates
these files and lists their sources.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import resources

# Classes 0 to 999 of the 22K list are ImageNet-1K. Class 850 (n04399382, teddy bear) has no images in the fall 2011
# release of ImageNet-22K.
NUM_1K = 1000
NUM_22K = 21842
UNTRAINED_22K = 850
_LISTS = {NUM_1K: "imagenet1k", NUM_22K: "imagenet22k"}
# A synset id: alone, before words (n02085620-Chihuahua), or after words in parentheses, as `class_names` writes it.
_SYNSET = re.compile(r"(n\d{8})(?![0-9a-z]).*|.*\((n\d{8})\)", re.IGNORECASE | re.DOTALL)


def synset_of(name: str) -> str | None:
    """Returns the synset id at the start of a class name or in parentheses at its end, or None if it has no id."""
    found = _SYNSET.fullmatch(name.strip())
    return (found[1] or found[2]).lower() if found else None


@cache
def class_list(num_classes: int) -> tuple[tuple[str, str], ...] | None:
    """Returns `(synset id, lemmas)` of each class of the ImageNet list with this length, or None for other lengths."""
    if num_classes not in _LISTS:
        return None
    text = resources.files("focalnet_jax.data").joinpath(f"classes/{_LISTS[num_classes]}.txt").read_text("utf-8")
    return tuple(tuple(line.split("\t", 1)) for line in text.splitlines())


def class_names(num_classes: int) -> list[str] | None:
    """Returns a unique name for each class of the ImageNet list with this length, or None for other lengths.

    The name consists of the lemmas, followed by the synset id if two classes have the same lemmas.
    """
    classes = class_list(num_classes)
    if classes is None:
        return None
    count: dict[str, int] = {}
    for _, lemmas in classes:
        count[lemmas] = count.get(lemmas, 0) + 1
    return [lemmas if count[lemmas] == 1 else f"{lemmas} ({synset})" for synset, lemmas in classes]


def output_names(count: int, classes: Sequence[str] | None = None) -> list[str]:
    """Returns a readable name for each output of a classifier.

    Synset ids are replaced by words. If `classes` is None and there is an ImageNet list with `count` classes, the
    outputs have the names of its classes. Any other output without a name is called `LABEL_` and its index, as in
    LABEL_7.

    Args:
      count: number of outputs, which may be larger than the number of classes of the data.
      classes: names of the first outputs, or None if they are unknown.
    """
    imagenet = class_list(count)
    if imagenet and (classes is None or list(classes) == [synset for synset, _ in imagenet]):
        return class_names(count)
    classes = _in_words(classes or ())
    return [*classes[:count], *(f"LABEL_{index}" for index in range(len(classes), count))]


def _in_words(classes: Sequence[str]) -> Sequence[str]:
    """Replaces synset ids by ImageNet's words, if all names are synset ids.

    The id is added in parentheses if the words are ambiguous or the class is not in ImageNet-1K.
    """
    if not classes or any(synset_of(name) != name for name in classes):
        return classes
    known = dict(class_list(NUM_1K))
    words = dict(class_list(NUM_22K)) | known
    # A word of several classes, such as maillot, is ambiguous.
    count = Counter(lemma for text in known.values() for lemma in {text, *text.split(", ")})
    return [
        name if name not in words else text if name in known and count[text] == 1 else f"{text} ({name})"
        for name, text in ((name, words.get(name, "")) for name in classes)
    ]


def short_names(labels: Sequence[str]) -> list[str]:
    """Returns a unique short name for each label.

    The name is the first lemma, the whole label if other labels have the same first lemma, or the label and its index
    if other labels are equal.
    """
    first = [label.split(",")[0] for label in labels]
    lemmas, wholes = Counter(first), Counter(labels)
    return [
        name if lemmas[name] == 1 else label if wholes[label] == 1 else f"{label} ({number})"
        for number, (label, name) in enumerate(zip(labels, first, strict=True))
    ]
