"""Weights of detectors with the options of their heads, and the models that they belong to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from focalnet_jax.convert.weights import Weights
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.model.heads.atss import ATSS
from focalnet_jax.model.precision import Precision, get_precision
from focalnet_jax.parameters import with_leaves

TASK = "detection"


@dataclass(frozen=True)
class DetectorHead:
    """Options of a detector's neck and head."""

    name: str = "atss"
    channels: int = 256  # of the feature pyramid and of the head
    convs: int = 4  # convolutions in each tower of the head

    def to_dict(self) -> dict[str, Any]:
        """Returns the options as JSON values, which `head_from_dict` reads."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class DetectorWeights(Weights):
    """`Weights` of a detector. The number of classes in the config is that of the head."""

    statistics: Any = field(default_factory=dict)  # BatchNorm's running statistics
    head: DetectorHead = DetectorHead()

    task = TASK


def head_from_dict(values: Mapping[str, Any]) -> DetectorHead:
    """Returns the head in the `head` section of a run's config, or in the output of `DetectorHead.to_dict`."""
    known = {each.name for each in dataclasses.fields(DetectorHead)}
    return DetectorHead(**{key: value for key, value in values.items() if key in known})


def build_detector(
    config: FocalNetConfig, head: DetectorHead, *, precision: Precision, rngs: nnx.Rngs, platform: str | None = None
) -> ATSS:
    """Returns a detector with fresh parameters. The arguments are those of `ATSS`."""
    options = dict(precision=precision, rngs=rngs, platform=platform, channels=head.channels, convs=head.convs)
    return ATSS(config, config.num_classes, **options)


def abstract_detector(config: FocalNetConfig, head: DetectorHead, dtype: str = "float32") -> ATSS:
    """Returns the model without values."""
    return nnx.eval_shape(lambda: build_detector(config, head, precision=get_precision(dtype), rngs=nnx.Rngs(0)))


def with_variables(config: FocalNetConfig, head: DetectorHead, leaves: Mapping[str, np.ndarray]) -> tuple[Any, Any]:
    """Returns trees of the parameters and of the running statistics with these values by name."""
    _, *shapes = nnx.split(abstract_detector(config, head), nnx.Param, ...)
    return tuple(with_leaves(nnx.to_pure_dict(each), leaves) for each in shapes)


def detector_of(weights: DetectorWeights, dtype: str = "float32") -> ATSS:
    """Returns the model with these weights and the precision policy `dtype`."""
    graph = nnx.graphdef(abstract_detector(weights.config, weights.head, dtype))
    return nnx.merge(graph, *jax.tree.map(jnp.asarray, (weights.params, weights.statistics)))
