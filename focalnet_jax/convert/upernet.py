"""UPerNet's weights, the options of its heads, and the model of these weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from focalnet_jax.convert.weights import ONLY_BACKBONE, Weights, backbone_only
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.model.heads.upernet import UPerNet
from focalnet_jax.model.precision import get_precision
from focalnet_jax.parameters import named_leaves, with_leaves

USUAL_SCALES = (1, 2, 3, 6)
_CLASSIFIER = "decode_head/conv_seg/kernel"


@dataclass(frozen=True)
class Heads:
    """Options of UPerNet's heads."""

    channels: int = 512  # of the decode head
    pool_scales: tuple[int, ...] = USUAL_SCALES  # for each branch of the pyramid pooling, windows along each side
    auxiliary_channels: int = 256  # 0: no auxiliary head

    def to_dict(self) -> dict[str, Any]:
        """Returns the options as JSON values, which `heads_from_dict` reads."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class UPerNetWeights(Weights):
    """`Weights` of UPerNet. The number of classes in the config is that of the decode head."""

    statistics: Any = field(default_factory=dict)  # BatchNorm's running statistics
    heads: Heads = Heads()

    task = "segmentation"
    what = "UPerNet with FocalNet"


def heads_from_dict(values: Mapping[str, Any]) -> Heads:
    """Returns the options in the `head` section of a run's config or in the output of `Heads.to_dict`."""
    without = values.get("auxiliary_weight") == 0
    return Heads(values["channels"], tuple(values["pool_scales"]), 0 if without else values["auxiliary_channels"])


def heads_from_shapes(
    shapes: Mapping[str, tuple[int, ...]], scales: Sequence[int] | None, place: str
) -> tuple[Heads, int]:
    """Returns the options of the heads, and the number of classes.

    Args:
      shapes: shapes of at least the kernels, by parameter name in this package.
      scales: `Heads.pool_scales`, which shapes do not determine; None for `USUAL_SCALES`.
      place: name of the file in messages.

    Raises:
      UserError: tensors of the heads are missing, or the number of windows does not fit.
    """
    branches = len([name for name in shapes if name.startswith("decode_head/psp_modules/") and name.endswith("kernel")])
    kernel, classifier = shapes.get("decode_head/bottleneck/conv/kernel"), shapes.get(_CLASSIFIER)
    if not branches or kernel is None or classifier is None:
        raise UserError(
            f"{place}: the decode head lacks psp_modules, bottleneck or the last layer; expected a complete UPerNet. "
            f"{ONLY_BACKBONE}"
        )
    scales = USUAL_SCALES if scales is None else tuple(scales)
    if len(scales) != branches:
        raise UserError(
            f"{place}: the pyramid pooling has {branches} branches, which do not fit the windows {scales}; tensors do "
            "not determine the windows: give --config.head.pool_scales to train.py or eval.py"
        )
    auxiliary = shapes.get("auxiliary_head/convs/0/conv/kernel", (0,))[-1]
    return Heads(kernel[-1], scales, auxiliary), classifier[-1]


def variable_shapes(config: FocalNetConfig, heads: Heads) -> tuple[Any, Any]:
    """Returns the shapes of the parameters and of the running statistics, as trees of `ShapeDtypeStruct`."""
    _, params, statistics = nnx.split(abstract_upernet(config, heads), nnx.Param, ...)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(statistics)


@lru_cache(maxsize=8)
def abstract_upernet(config: FocalNetConfig, heads: Heads, dtype: str = "float32") -> UPerNet:
    """Returns a UPerNet with shapes and dtypes instead of values."""
    options: dict[str, Any] = {"channels": heads.channels, "pool_scales": heads.pool_scales}
    if heads.auxiliary_channels:
        options["auxiliary_channels"] = heads.auxiliary_channels
    return nnx.eval_shape(
        lambda: UPerNet(
            config,
            config.num_classes,
            precision=get_precision(dtype),
            rngs=nnx.Rngs(0),
            auxiliary=bool(heads.auxiliary_channels),
            **options,
        )
    )


def upernet_of(weights: UPerNetWeights, dtype: str = "float32") -> UPerNet:
    """Returns the model with these weights and the precision policy `dtype`."""
    graph = nnx.graphdef(abstract_upernet(weights.config, weights.heads, dtype))
    arrays = jax.tree.map(jnp.asarray, (weights.params, weights.statistics))
    return nnx.merge(graph, *arrays)


def all_variables(weights: UPerNetWeights) -> Any:
    """Returns parameters and running statistics in one tree, as the functions of `tables_upernet` expect them."""
    leaves = named_leaves(weights.params) | named_leaves(weights.statistics)
    state = nnx.to_pure_dict(nnx.state(abstract_upernet(weights.config, weights.heads)))
    return with_leaves(state, leaves)


def with_variables(config: FocalNetConfig, heads: Heads, leaves: Mapping[str, np.ndarray]) -> tuple[Any, Any]:
    """Returns a tree of the parameters and a tree of the running statistics, with the values of `leaves` by name."""
    return tuple(with_leaves(shapes, leaves) for shapes in variable_shapes(config, heads))


def backbone_weights(weights: UPerNetWeights) -> Weights:
    """Returns the backbone as a FocalNet without a classifier. The norm of its last output becomes the final norm."""
    params, config = backbone_only(named_leaves(weights.params), weights.config)
    info = dataclasses.replace(weights.info, classes=None, words=None, palette=None, box=None)
    return Weights(params, config, weights.name, weights.format, weights.dtype, weights.notes, info)
