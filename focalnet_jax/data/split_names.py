"""Recognises the splits of a data set by the names of folders, such as `training_set`."""

from __future__ import annotations

import re

# Splits by the words that mean them.
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# Words that may occur next to the word for a split, as in seg_train, training_set and test_images.
_BESIDE = frozenset({"data", "dataset", "folder", "image", "images", "img", "imgs", "seg", "set", "split"})
_JOINED = re.compile(rf"({'|'.join(sorted(SPLIT_NAMES, key=len, reverse=True))})(data|images|imgs|set)")
_KAGGLE_PART = re.compile(r"(train|val|test)\.x\d*")  # train.X1 to train.X4 and val.X of ImageNet100 on Kaggle
_PREFIXES = ("imagenet", "ilsvrc")  # after these prefixes, the last word may be a split, as in imagenet21k_val


def split_named(folder: str) -> str | None:
    """Returns the split that a folder name means, or None if it means no split (`bullet_train` is a class)."""
    folder = folder.lower()
    if split := split_word(folder):
        return split
    if found := _JOINED.fullmatch(folder):
        return SPLIT_NAMES[found[1]]
    words = re.split(r"[^a-z0-9]+", folder)
    splits = [SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES]
    return splits[0] if len(splits) == 1 and _BESIDE.issuperset(set(words) - SPLIT_NAMES.keys()) else None


def split_word(name: str) -> str | None:
    """Returns the split that a name means, or None if it means no split.

    Unlike in `split_named`, the whole name must be a word for a split, or a part of a split such as train.X1. Only
    names that start with imagenet or ilsvrc may have other words before the word for a split.
    """
    name = name.lower()
    if found := _KAGGLE_PART.fullmatch(name):
        return SPLIT_NAMES[found[1]]
    return SPLIT_NAMES.get(re.split(r"[^a-z0-9]+", name)[-1] if name.startswith(_PREFIXES) else name)
