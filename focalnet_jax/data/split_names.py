"""Names of folders that stand for the splits of a data set."""

from __future__ import annotations

import re

# Splits by the words for them.
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# Words next to the word for a split, as in seg_train, training_set and test_images.
_BESIDE = frozenset({"data", "dataset", "folder", "image", "images", "img", "imgs", "seg", "set", "split"})
_JOINED = re.compile(rf"({'|'.join(sorted(SPLIT_NAMES, key=len, reverse=True))})(data|images|imgs|set)")
_KAGGLE_PART = re.compile(r"(train|val|test)\.x\d*")  # train.X1 to train.X4 and val.X of ImageNet100 on Kaggle
_PREFIXES = ("imagenet", "ilsvrc")  # only after these is any last word a split, as in imagenet21k_val


def split_named(folder: str) -> str | None:
    """Returns the split that a folder name stands for, or None: bullet_train is a class."""
    folder = folder.lower()
    if split := split_word(folder):
        return split
    if found := _JOINED.fullmatch(folder):
        return SPLIT_NAMES[found[1]]
    words = re.split(r"[^a-z0-9]+", folder)
    splits = [SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES]
    return splits[0] if len(splits) == 1 and _BESIDE.issuperset(set(words) - SPLIT_NAMES.keys()) else None


def split_word(name: str) -> str | None:
    """Returns the split for which a name stands as it is, such as the name of a tar without its suffixes, or None."""
    name = name.lower()
    if found := _KAGGLE_PART.fullmatch(name):
        return SPLIT_NAMES[found[1]]
    return SPLIT_NAMES.get(re.split(r"[^a-z0-9]+", name)[-1] if name.startswith(_PREFIXES) else name)
