"""Fuzzes cards, and Parquet files and shards that are read directly, through `ShardedSource`."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

from focalnet_jax.data import sharded_source
from focalnet_jax.data.sharded_source import ShardedSource
from focalnet_jax.errors import UserError
from fuzz.mutations import Rng, dump_json, mutate_bytes, mutate_json, pick
from fuzz.preparing import explained
from fuzz.runner import Family, WrongAnswerError
from tests.data.layouts import pack, write_parquet
from tests.data.pictures import picture

_NAMES = ["cat", "dog", "1.0"]
_FEATURES = [
    {"name": "image", "dtype": "image"},
    {"name": "label", "dtype": {"class_label": {"names": {str(n): name for n, name in enumerate(_NAMES)}}}},
]
_CONFIGS = [
    {
        "config_name": "default",
        "data_files": [{"split": "train", "path": "train*"}, {"split": "validation", "path": ["val-*"]}],
    }
]
_HEADER = {"configs": _CONFIGS, "dataset_info": {"features": _FEATURES}}
_LABELS = [number % 3 for number in range(9)]


@dataclass(frozen=True)
class Material:
    """A Parquet file and a shard, with numeric labels `_LABELS`, and the class of each of their images by content."""

    files: dict[str, bytes]
    classes: dict[bytes, str]


def prepare(folder: Path) -> Material:
    """Returns nine images in a Parquet file and in a shard."""
    pictures = [picture(number) for number in range(9)]
    rows = [(f"{number}.jpg", content, _LABELS[number]) for number, content in enumerate(pictures)]
    path = write_parquet(folder / "train-0.parquet", rows)
    samples = {}
    for number, content in enumerate(pictures):
        samples |= {f"{number}.jpg": content, f"{number}.cls": str(_LABELS[number]).encode()}
    files = {"parquet": path.read_bytes(), "webdataset": pack(samples)}
    return Material(files, {content: _NAMES[label] for content, label in zip(pictures, _LABELS, strict=True)})


def case(material: Material, rng: Rng, folder: Path) -> None:
    """Reads a data set in which the card or the file of images is changed."""
    kind = pick(rng, sorted(material.files))
    file = folder / "set" / ("train-0.parquet" if kind == "parquet" else "train-0.tar")
    file.parent.mkdir(parents=True)
    content, card, inert = material.files[kind], json.dumps(_HEADER).encode(), rng.random() < 0.1
    of_card = rng.random() < 0.7
    if inert:
        card = json.dumps(_HEADER, indent=int(rng.integers(0, 5))).encode()
    elif of_card and rng.random() < 0.6:
        card = dump_json(mutate_json(_HEADER, rng), rng)
    elif of_card:
        card = mutate_bytes(card, rng)
    else:
        content = mutate_bytes(content, rng)
    file.write_bytes(content)
    if rng.random() < 0.8:
        (file.parent / "README.md").write_bytes(b"---\n" + card + b"\n---\n# A data set\n")
    else:
        described = {"features": {"label": {"names": _NAMES}}}
        described = described if inert or not of_card else mutate_json(described, rng)
        (file.parent / "dataset_info.json").write_bytes(
            dump_json(described, rng) if not inert else json.dumps(described).encode()
        )
    sharded_source._CACHE = str(folder / "cache")
    sharded_source._indexed.cache_clear()
    try:
        with contextlib.redirect_stderr(io.StringIO()), explained():
            source = ShardedSource(kind, str(file.parent), "train")
    except UserError as error:
        if inert:
            raise WrongAnswerError(f"an undamaged card is rejected: {error}") from error
        raise
    found = {}
    for index in range(len(source)):
        encoded, label = source[index]
        found[encoded] = source.class_names[label]
        if not source.name(index):
            raise WrongAnswerError("an example without a name")
    if inert and found != material.classes:
        raise WrongAnswerError(f"the classes are {sorted(found.values())}")
    if of_card and found.keys() - material.classes.keys():
        raise WrongAnswerError("an image differs although only the card was changed")


FAMILY = Family("cards", 600, prepare, case, seconds=60)
