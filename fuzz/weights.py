"""Helpers of the families of weights files: small files, and the comparison of parameters with arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from focalnet_jax.convert.detectors import DetectorHead, DetectorWeights, abstract_detector, all_variables
from focalnet_jax.convert.mapping import param_shapes, params_to_tensors
from focalnet_jax.convert.read_detector import read_detector
from focalnet_jax.convert.tables_detection import variables_to_tensors
from focalnet_jax.convert.weights import Weights, read_weights
from focalnet_jax.convert.weights_task import weights_task
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig
from fuzz.runner import WrongAnswerError

FORMATS = ("timm", "microsoft", "huggingface", "mmdet")
OPTIONS = {"use_postln": False, "normalize_modulator": False}


@dataclass(frozen=True)
class File:
    """An undamaged weights file: its bytes, and its arrays by name."""

    format: str
    content: bytes
    arrays: dict[str, np.ndarray]


def random_weights(format: str = "timm") -> Weights:
    """Returns random parameters of a small model: ATSS for mmdetection, or else a classifier."""
    config = FocalNetConfig(embed_dim=8, depths=(1, 1), num_classes=5)
    head, rng = DetectorHead("atss", 32, convs=1), np.random.default_rng(0)
    detector = format == "mmdet"
    shapes = nnx.to_pure_dict(nnx.state(abstract_detector(config, head))) if detector else param_shapes(config)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    if detector:
        return DetectorWeights(params, config, None, "orbax", "float32", (), head=head)
    return Weights(params, config, None, "orbax", "float32", ())


def arrays_of(weights: Weights, format: str) -> dict[str, np.ndarray]:
    """Returns the parameters as arrays with the names and layouts of a format."""
    if isinstance(weights, DetectorWeights):
        return dict(variables_to_tensors(all_variables(weights), weights.config, weights.head.name))
    return dict(params_to_tensors(weights.params, weights.config, format))


def read(path: Path, file: File, *, whole: bool = False) -> Weights:
    """Reads weights. An undamaged file must not be rejected."""
    try:
        if file.format == "mmdet":
            weights_task(path)
            return read_detector(path, options=OPTIONS)
        return read_weights(path, options=OPTIONS)
    except UserError as error:
        if whole:
            raise WrongAnswerError(f"{file.format} is undamaged but rejected: {error}") from error
        raise


def compare(found: Weights, format: str, held: Mapping[str, np.ndarray]) -> None:
    """Raises `WrongAnswerError` if the parameters differ from the arrays of the file."""
    if found.format != format:
        raise WrongAnswerError(f"{format} is recognised as {found.format}")
    for name, array in arrays_of(found, format).items():
        theirs = held.get(name)
        if theirs is None:
            theirs = next((each for other, each in held.items() if other.endswith(name) or name.endswith(other)), None)
        if theirs is None or not np.array_equal(np.asarray(theirs, np.float32), array, equal_nan=True):
            raise WrongAnswerError(f"{name} is {'not in the file' if theirs is None else 'another array'}")
