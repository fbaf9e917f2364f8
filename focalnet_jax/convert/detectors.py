"""Weights of detectors, the options of their heads, and the models of these weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from focalnet_jax.convert.weights import Weights
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.model.heads.atss import ATSS, summarize_atss
from focalnet_jax.model.heads.mask_rcnn import CascadeMaskRCNN, MaskRCNN, summarize_mask_rcnn
from focalnet_jax.model.heads.sparse_rcnn import SparseRCNN, summarize_sparse_rcnn
from focalnet_jax.model.precision import Precision, get_precision
from focalnet_jax.model.summary import Summary
from focalnet_jax.parameters import named_leaves, with_leaves

TASK = "detection"


@dataclass(frozen=True)
class Architecture:
    """A type of detector.

    Attributes:
      title: name of the detector in texts.
      build: class of the model.
      summarize: function that returns the summary of a model for a size of images.
      defaults: arguments of `build` that are options of the detector, with their values in the original.
      last: regular expression that matches the names of parameters whose shapes depend on the number of classes.
    """

    title: str
    build: Callable[..., nnx.Module]
    summarize: Callable[[Any, tuple[int, int]], Summary]
    defaults: Mapping[str, int]
    last: str


_REGION_OUTPUTS = r"roi_head/(bbox_head/(\d/)?fc_(cls|reg)|mask_head/(\d/)?conv_logits)/"
ARCHITECTURES = {
    "atss": Architecture("ATSS", ATSS, summarize_atss, {"convs": 4}, "bbox_head/atss_cls/"),
    "mask_rcnn": Architecture("Mask R-CNN", MaskRCNN, summarize_mask_rcnn, {"hidden": 1024}, _REGION_OUTPUTS),
    "cascade_mask_rcnn": Architecture(
        "Cascade Mask R-CNN", CascadeMaskRCNN, summarize_mask_rcnn, {"hidden": 1024}, _REGION_OUTPUTS
    ),
    "sparse_rcnn": Architecture(
        "Sparse R-CNN",
        SparseRCNN,
        summarize_sparse_rcnn,
        {"hidden": 2048, "proposals": 300},
        r"roi_head/bbox_head/\d/fc_cls/",
    ),
}
"""The detectors by their values of `head.name`."""


@dataclass(frozen=True)
class DetectorHead:
    """Options of a detector's neck and head. An option that the detector does not have is None.

    Attributes:
      name: a key of `ARCHITECTURES`.
      channels: number of channels of the feature pyramid and of the head.
      convs: number of convolutions in each tower of the head of ATSS.
      hidden: width of the hidden fully connected layers of a box head.
      proposals: number of learned proposals.
    """

    name: str = "atss"
    channels: int = 256
    convs: int | None = None
    hidden: int | None = None
    proposals: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the options as JSON values, which `head_from_dict` reads."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}

    @property
    def architecture(self) -> Architecture:
        """The entry of `ARCHITECTURES` for this detector."""
        return ARCHITECTURES[self.name]


@dataclass(frozen=True)
class DetectorWeights(Weights):
    """`Weights` of a detector. The number of classes in the config is that of the head."""

    statistics: Any = field(default_factory=dict)  # BatchNorm's running statistics
    head: DetectorHead = DetectorHead()

    task = TASK

    @property
    def what(self) -> str:
        """Name of the model in texts, such as "ATSS with FocalNet"."""
        return f"{self.head.architecture.title} with FocalNet"


def head_from_dict(values: Mapping[str, Any]) -> DetectorHead:
    """Returns the options in the `head` section of a run's config or in the output of `DetectorHead.to_dict`.

    Options that are missing or None have the original's values.

    Raises:
      UserError: an option is given that the detector does not have.
    """
    known = {each.name for each in dataclasses.fields(DetectorHead)}
    given = {key: value for key, value in values.items() if key in known and value is not None}
    name = given.get("name", DetectorHead.name)
    defaults = ARCHITECTURES[name].defaults
    if others := [key for key in given if key not in ("name", "channels", *defaults)]:
        raise UserError(
            f"head.{others[0]}={given[others[0]]}: {name} has no such option; expected head.channels or "
            f"{' or '.join(f'head.{key}' for key in defaults)}"
        )
    return DetectorHead(**(dict(defaults) | given))


def build_detector(
    config: FocalNetConfig, head: DetectorHead, *, precision: Precision, rngs: nnx.Rngs, platform: str | None = None
) -> nnx.Module:
    """Returns a detector with newly initialised parameters.

    The arguments except `head` are those of the classes in `ARCHITECTURES`.
    """
    options = {key: getattr(head, key) for key in ("channels", *head.architecture.defaults)}
    build = head.architecture.build
    return build(config, config.num_classes, precision=precision, rngs=rngs, platform=platform, **options)


@lru_cache(maxsize=8)
def abstract_detector(config: FocalNetConfig, head: DetectorHead, dtype: str = "float32") -> nnx.Module:
    """Returns a detector with shapes and dtypes instead of values."""
    return nnx.eval_shape(lambda: build_detector(config, head, precision=get_precision(dtype), rngs=nnx.Rngs(0)))


def with_variables(config: FocalNetConfig, head: DetectorHead, leaves: Mapping[str, np.ndarray]) -> tuple[Any, Any]:
    """Returns a tree of the parameters and a tree of the running statistics, with the values of `leaves` by name."""
    _, *shapes = nnx.split(abstract_detector(config, head), nnx.Param, ...)
    return tuple(with_leaves(nnx.to_pure_dict(each), leaves) for each in shapes)


def all_variables(weights: DetectorWeights) -> Any:
    """Returns parameters and running statistics in one tree, as the functions of `tables_detection` expect them."""
    leaves = named_leaves(weights.params) | named_leaves(weights.statistics)
    return with_leaves(nnx.to_pure_dict(nnx.state(abstract_detector(weights.config, weights.head))), leaves)


def detector_of(weights: DetectorWeights, dtype: str = "float32") -> nnx.Module:
    """Returns the model with these weights and the precision policy `dtype`."""
    graph = nnx.graphdef(abstract_detector(weights.config, weights.head, dtype))
    return nnx.merge(graph, *jax.tree.map(jnp.asarray, (weights.params, weights.statistics)))
