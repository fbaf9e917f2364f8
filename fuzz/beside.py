"""Fuzzes JSON files that accompany weights, in transformers' and timm's formats, through `load_classifier`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.write import write_weights
from focalnet_jax.data.preprocessing import USUAL
from focalnet_jax.errors import UserError
from focalnet_jax.inference import Classifier, load_classifier
from focalnet_jax.tasks.classification import classifier
from fuzz.mutations import Rng, dump_json, mutate_json, pick
from fuzz.runner import Family, WrongAnswerError
from fuzz.weights import OPTIONS, arrays_of, random_weights

_NAMES = ("rose", "tulip", "daisy", "lily", "poppy")
_TIMM = {
    "architecture": "focalnet_tiny_srf",
    "num_classes": 5,
    "num_features": 16,
    "label_names": list(_NAMES),
    "label_descriptions": {name: f"a {name}" for name in _NAMES},
    "pretrained_cfg": {
        "input_size": [3, 32, 32],
        "pool_size": [1, 1],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "num_classes": 5,
        "license": "mit",
    },
}
_PICTURE = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)


@dataclass(frozen=True)
class Directory:
    """The files of a model by name, and the values read from them."""

    files: dict[str, bytes]
    seen: Any


def prepare(folder: Path) -> list[Directory]:
    """Returns a transformers directory and a timm directory."""
    import safetensors.numpy

    classifier.model_of = lambda *_: None  # building the model takes most of the time and reads no file
    theirs = folder / "transformers"
    if not theirs.exists():
        stated = WeightsInfo(classes=_NAMES, preprocessing=USUAL.at((32, 32)))
        write_weights(dataclasses.replace(random_weights(), info=stated), theirs, format="huggingface")
        timm = folder / "timm"
        timm.mkdir()
        held = {name: np.ascontiguousarray(array) for name, array in arrays_of(random_weights(), "timm").items()}
        (timm / "model.safetensors").write_bytes(safetensors.numpy.save(held, {"format": "pt"}))
        (timm / "config.json").write_text(json.dumps(_TIMM))
    found = []
    for path in (theirs, folder / "timm"):
        files = {each.name: each.read_bytes() for each in path.iterdir()}
        found.append(Directory(files, _seen(load_classifier(path, options=OPTIONS))))
    return found


def _seen(classifier: Classifier) -> tuple[Any, ...]:
    """Returns the values read from the accompanying files: class names, sizes, and a preprocessed image."""
    pixels = np.asarray(classifier.transform(_PICTURE))
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise WrongAnswerError(f"an image becomes {pixels.shape}")
    return classifier.labels, classifier.preprocessing, pixels.tobytes()


def case(directories: list[Directory], rng: Rng, folder: Path) -> None:
    """Loads a directory in which one JSON file is changed."""
    directory = pick(rng, directories)
    changed = pick(rng, [name for name in directory.files if name.endswith(".json")])
    value = json.loads(directory.files[changed])
    inert = rng.random() < 0.2
    if inert:
        value = {"_commit_hash": "0" * 40, "torch_dtype": "float32", **value, "unknown": {"a": [1, None]}}
        content = json.dumps(value, indent=int(rng.integers(5))).encode()
    else:
        content = dump_json(mutate_json(value, rng), rng)
    for name, held in directory.files.items():
        (folder / name).write_bytes(content if name == changed else held)
    try:
        seen = _seen(load_classifier(folder, options=OPTIONS))
    except UserError as error:
        if inert:
            raise WrongAnswerError(f"{changed} with meaningless keys is rejected: {error}") from error
        raise
    if inert and seen != directory.seen:
        raise WrongAnswerError(f"{changed} with meaningless keys gives other values")


FAMILY = Family("beside", 2000, prepare, case, seconds=60)
