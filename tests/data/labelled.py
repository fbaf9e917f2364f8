"""Writes a small ImageNet-1K as Parquet files and WebDataset shards, with any labels."""

from tests.data.layouts import (
    NUMBERS,
    SYNSETS,
    write_parquet,
    write_train,
    write_val,
)
from tests.data.preparing import write_tar

TRAIN = {SYNSETS[0]: 6, SYNSETS[1]: 4, SYNSETS[2]: 4}  # number of usable images by class
VAL = dict.fromkeys(SYNSETS, 2)
OWN = {synset: number for number, synset in enumerate(SYNSETS)}
FROM_1 = {synset: number + 1 for synset, number in NUMBERS.items()}


def images(split, names="plain"):
    """Returns (file name or None, content, synset) of the images of a split."""
    if split == "train":
        found = [(name.split("/")[1], content, name[:9]) for name, content in write_train(None).items()]
    else:
        val, synsets = write_val()
        found = [(name, content, synset) for synset, (name, content) in zip(synsets, val.items(), strict=True)]
    written = {"plain": lambda name, _: name, "hub": lambda name, s: f"{name[:-5]}_{s}.JPEG", "none": lambda *_: None}
    return [(written[names](name, synset), content, synset) for name, content, synset in found]


def write_rows(root, train, val, train_names="plain", val_names="plain"):
    """Writes Parquet files; `train` and `val` map synsets to labels."""
    for split, labels, names in (("train", train, train_names), ("val", val, val_names)):
        rows = [(name, content, labels[synset]) for name, content, synset in images(split, names)]
        write_parquet(root / f"{split}.parquet", rows)
    return root


def write_shards(root, train, val, train_names="plain", val_names="plain"):
    """Writes WebDataset shards; `train` and `val` map synsets to labels."""
    for split, labels, names in (("train", train, train_names), ("val", val, val_names)):
        shard = {}
        for number, (name, content, synset) in enumerate(images(split, names)):
            key = name[:-5] if name else f"{number:06d}"
            shard |= {f"{key}.jpg": content, f"{key}.cls": str(labels[synset]).encode()}
        write_tar(root / f"imagenet1k-{split}-0000.tar", shard)
    return root
