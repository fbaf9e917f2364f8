"""The cost of a model: one row per part with the shape of its output, its parameters and its MACs.

MACs are multiply-accumulate operations.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import jax
import numpy as np
from flax import nnx

from focalnet_jax.errors import UserError
from focalnet_jax.model.focalnet import Backbone, FocalNet
from focalnet_jax.model.precision import get_precision
from focalnet_jax.model.variants import FocalNetConfig, variant_config


@dataclass(frozen=True)
class Row:
    """Cost of one part of the model."""

    name: str
    shape: tuple[int, ...]  # of the output for one image, such as (h, w, C), or (K,) for the classifier
    params: int  # number of parameters
    macs: int  # multiply-accumulates of the forward pass of one image


@dataclass(frozen=True)
class Summary:
    """Cost of a model: one row per part, in the order of computation. `str()` returns a table."""

    rows: tuple[Row, ...]
    image_size: tuple[int, int]

    @property
    def params(self) -> int:
        """Number of parameters."""
        return sum(row.params for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the forward pass of one image."""
        return sum(row.macs for row in self.rows)

    def __str__(self) -> str:
        lines = [f"{'part':<14}{'output':>16}{'parameters':>15}{'GMACs':>10}"]
        for row in (*self.rows, Row("total", (), self.params, self.macs)):
            shape = "x".join(map(str, row.shape))
            lines.append(f"{row.name:<14}{shape:>16}{row.params:>15,}{row.macs / 1e9:>10.3f}")
        return "\n".join(lines)


def summarize(model: FocalNet | FocalNetConfig | str, image_size: int | tuple[int, int] = 224) -> Summary:
    """Returns the shapes, parameters and MACs of a model without allocating arrays.

    MACs are counted as in the paper's tables. They include projections, convolutions, pooling, and the products with
    gates and query, but not norms, activations and biases.

    Args:
      model: the model, its configuration, or the name of a released variant.
      image_size: pixels per side, or `(height, width)` in pixels.

    Raises:
      UserError: the name is unknown, or the size is not valid for the model.
    """
    if isinstance(model, str):
        model = variant_config(model)
    if isinstance(model, FocalNetConfig):
        config = model
        model = nnx.eval_shape(lambda: FocalNet(config, precision=get_precision("float32"), rngs=nnx.Rngs(0)))
    config, height, width = model.config, *image_sides(image_size)
    rows = backbone_rows(model, (height, width))
    dim = config.dims[-1]
    head = count(model.head) if model.head is not None else 0
    output = (config.num_classes or dim,)
    rows.append(Row("norm, head", output, count(model.norm) + head, dim * config.num_classes))
    return Summary(tuple(rows), (height, width))


def image_sides(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns height and width of `image_size`: pixels per side, or `(height, width)`.

    Raises:
      UserError: `image_size` is neither an integer nor a pair of integers.
    """
    try:
        height, width = (operator.index(side) for side in np.broadcast_to(np.asarray(image_size), 2))
    except (TypeError, ValueError) as error:
        raise UserError(f"image_size is {image_size!r}; expected pixels as an integer, or (height, width)") from error
    return height, width


def backbone_rows(model: Backbone, size: tuple[int, int]) -> list[Row]:
    """Returns the rows of the patch embedding, the stages and the downsamples, for images of this height and width."""
    config = model.config
    images = jax.ShapeDtypeStruct((1, *size, config.in_channels), model.dtype)
    shapes = [out.shape[1:] for out in nnx.eval_shape(_embedded, model, images)]

    rows = [Row("patch_embed", shapes[0], count(model.patch_embed), _embed_macs(model.patch_embed, shapes[0]))]
    for index, (stage, shape) in enumerate(zip(model.stages, shapes, strict=True)):
        macs = stage.depth * _block_macs(config, index, shape[0] * shape[1])
        rows.append(Row(f"stage {index}", shape, count(stage.blocks), macs))
        if stage.downsample is not None:
            macs = _embed_macs(stage.downsample, shapes[index + 1])
            rows.append(Row(f"downsample {index}", shapes[index + 1], count(stage.downsample), macs))
    return rows


def _embedded(model: Backbone, images: jax.Array) -> list[jax.Array]:
    """Returns maps with the shapes of the stages' outputs, without blocks, which keep shapes and are slow to trace."""
    model.check_size(images)
    maps = [model.patch_embed(images)]
    for stage in model.stages:
        if stage.downsample is not None:
            maps.append(stage.downsample(maps[-1]))
    return maps


def count(module: nnx.Module) -> int:
    """Returns the number of parameters of a module."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def _embed_macs(embed: nnx.Module, shape: tuple[int, ...]) -> int:
    return shape[0] * shape[1] * embed.proj.kernel.size


def _block_macs(config: FocalNetConfig, stage: int, tokens: int) -> int:
    dim, kernels = config.dims[stage], config.kernel_sizes(stage)
    gates = (len(kernels) + config.use_global_level) * config.use_gates
    projections = dim * (2 * dim + gates) + 2 * dim * dim  # query, context, gates; modulator, proj
    levels = sum(dim * size * size for size in kernels) + dim * gates  # depthwise, and each level times its gate
    rest = dim * (1 + config.use_global_level)  # query times modulator, mean
    mlp = 2 * dim * int(dim * config.mlp_ratio)
    return tokens * (projections + levels + rest + mlp)
