"""The classes of ImageNet-1K and ImageNet-22K in the order of the released heads.

`classes/*.txt` hold a line a class, synset id and lemmas; `scripts/class_lists.py` made them and says where from.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import resources

# In the 22K order ids 0..999 are ImageNet-1K. Id 850 (n04399382, teddy bear) has no images in the fall 2011 release.
NUM_1K = 1000
NUM_22K = 21842
UNTRAINED_22K = 850
_LISTS = {NUM_1K: "imagenet1k", NUM_22K: "imagenet22k"}
# A synset id, alone or before its words (n02085620-Chihuahua), or behind them as `class_names` has it.
_SYNSET = re.compile(r"(n\d{8})(?![0-9a-z]).*|.*\((n\d{8})\)", re.IGNORECASE | re.DOTALL)


def synset_of(name: str) -> str | None:
    """The synset id that a class name begins with, or has in parentheses at its end; None without one."""
    found = _SYNSET.fullmatch(name.strip())
    return (found[1] or found[2]).lower() if found else None


@cache
def class_list(num_classes: int) -> tuple[tuple[str, str], ...] | None:
    """`(synset id, lemmas)` of each class of the list with that many classes, or `None` if there is no such list."""
    if num_classes not in _LISTS:
        return None
    text = resources.files("focalnet_jax.data").joinpath(f"classes/{_LISTS[num_classes]}.txt").read_text("utf-8")
    return tuple(tuple(line.split("\t", 1)) for line in text.splitlines())


def class_names(num_classes: int) -> list[str] | None:
    """One distinct name a class: its lemmas, with the synset id where two classes share them."""
    classes = class_list(num_classes)
    if classes is None:
        return None
    count: dict[str, int] = {}
    for _, lemmas in classes:
        count[lemmas] = count.get(lemmas, 0) + 1
    return [lemmas if count[lemmas] == 1 else f"{lemmas} ({synset})" for synset, lemmas in classes]


def labels(count: int, classes: Sequence[str] | None = None) -> list[str]:
    """A name for people of each output.

    That is what is known, in words where it is a synset id; ImageNet's where the number of outputs says so; or LABEL_0.

    Args:
      count: outputs, which may be more than the data has classes.
      classes: their names, as far as they are known.
    """
    imagenet = class_list(count)
    if imagenet and (classes is None or list(classes) == [synset for synset, _ in imagenet]):
        return class_names(count)
    classes = _in_words(classes or ())
    return [*classes[:count], *(f"LABEL_{index}" for index in range(len(classes), count))]


def _in_words(classes: Sequence[str]) -> Sequence[str]:
    """Class names with ImageNet's words in place of synset ids, and beside them where the words alone do not tell."""
    if not classes or any(synset_of(name) != name for name in classes):
        return classes
    known = dict(class_list(NUM_1K))
    words = dict(class_list(NUM_22K)) | known
    # A word that is another class's too, such as maillot, does not tell which it is.
    count = Counter(lemma for text in known.values() for lemma in {text, *text.split(", ")})
    return [
        name if name not in words else text if name in known and count[text] == 1 else f"{text} ({name})"
        for name, text in ((name, words.get(name, "")) for name in classes)
    ]


def short_names(labels: Sequence[str]) -> list[str]:
    """Of each of a model's labels its first lemma; where several have it, the whole label; its number if need be."""
    first = [label.split(",")[0] for label in labels]
    lemmas, wholes = Counter(first), Counter(labels)
    return [
        name if lemmas[name] == 1 else label if wholes[label] == 1 else f"{label} ({number})"
        for number, (label, name) in enumerate(zip(labels, first, strict=True))
    ]
