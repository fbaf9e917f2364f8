"""Fuzzes the ArrayRecord files and metadata of prepared data sets, through `TfdsSource`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from focalnet_jax.data.decode import decode
from focalnet_jax.data.sources import open_source
from focalnet_jax.errors import UserError
from fuzz.mutations import Rng, dump_json, mutate_bytes, mutate_json, pick
from fuzz.runner import Family, WrongAnswerError
from tests.data.flowers import NAMES, make_data_set

_LABELS = [0, 1, 2, 2, 1, 0, 1]


@dataclass(frozen=True)
class DataSet:
    """The files of a data set by name, and the examples in them."""

    files: dict[str, bytes]
    examples: list[tuple[bytes, np.ndarray]]


def prepare(folder: Path) -> list[DataSet]:
    """Returns two data sets, with one label and with several labels per image."""
    one = {"label": tfds.features.ClassLabel(names=NAMES)}
    many = {"real_label": tfds.features.Sequence(tfds.features.ClassLabel(names=NAMES))}
    made = []
    for name, label, labels in (("one", one, _LABELS), ("many", many, [[each] for each in _LABELS])):
        path = folder / name / "flowers" / "1.0.0"
        if not path.exists():
            make_data_set(path, label, labels)
        files = {each.name: each.read_bytes() for each in path.iterdir() if each.is_file()}
        source = open_source("tfds", str(path), "train")
        made.append(DataSet(files, [source[index] for index in range(len(source))]))
    return made


def case(data_sets: list[DataSet], rng: Rng, folder: Path) -> None:
    """Reads a data set in which one file is changed."""
    data_set = pick(rng, data_sets)
    changed = pick(rng, data_set.files)
    content, inert = data_set.files[changed], False
    if changed.endswith(".json") and rng.random() < 0.7:
        value = json.loads(content)
        inert = rng.random() < 0.2
        content = json.dumps(value, indent=5).encode() if inert else dump_json(mutate_json(value, rng), rng)
    else:
        content = mutate_bytes(content, rng)
    path = folder / "flowers" / "1.0.0"
    path.mkdir(parents=True)
    for name, held in data_set.files.items():
        (path / name).write_bytes(content if name == changed else held)
    if not inert and rng.random() < 0.05:
        (path / changed).unlink()
    try:
        _read(str(path), data_set, changed)
    except UserError as error:
        if inert:
            raise WrongAnswerError(f"{changed} with different white space is rejected: {error}") from error
        raise


def _read(path: str, data_set: DataSet, changed: str) -> None:
    source = open_source("tfds", path, "train")
    refused = None
    for index in range(min(len(source), 50)):
        try:
            picture, label = source[index]
            decode(picture)
        except UserError as error:
            refused = error
            if source.name(index) == "":
                raise WrongAnswerError("an example without a name") from error
            continue
        if index >= len(data_set.examples):
            raise WrongAnswerError(f"example {index} of {len(data_set.examples)}, {changed} changed")
        theirs, expected = data_set.examples[index]
        if picture != theirs or not np.array_equal(label, expected):
            raise WrongAnswerError(f"example {index} has another image or label, {changed} changed")
    if refused:
        raise refused


FAMILY = Family("records", 1500, prepare, case, seconds=60)
