"""Common parts of all detectors: the backbone for dense tasks, its rows of a summary, and checks of arguments."""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx

from focalnet_jax.errors import UserError
from focalnet_jax.model.focalnet import Backbone
from focalnet_jax.model.precision import Precision
from focalnet_jax.model.summary import Row, backbone_rows, count
from focalnet_jax.model.variants import FocalNetConfig


def dense_backbone(
    config: FocalNetConfig, outputs: Sequence[int], *, precision: Precision, rngs: nnx.Rngs, platform: str | None
) -> Backbone:
    """Returns the original's backbone for dense tasks, which pads maps and normalizes the map of each output."""
    return Backbone(
        config,
        precision=precision,
        rngs=rngs,
        platform=platform,
        outputs=list(outputs),
        output_norms=True,
        pad=True,
        stem_padding=3 if config.use_conv_embed else 2,
    )


def check_arguments(config: FocalNetConfig, stages: int, **numbers: int) -> None:
    """Raises `UserError` if one of `numbers` is not positive or the backbone has fewer than `stages` stages."""
    for name, value in numbers.items():
        if value <= 0:
            raise UserError(f"{name} is {value}; expected a positive number")
    if len(config.depths) < stages:
        raise UserError(f"depths is {config.depths}; expected at least {stages} stages for this detector")


def rows_of_maps(backbone: Backbone, size: tuple[int, int]) -> tuple[list[Row], list[tuple[int, int]]]:
    """Returns the backbone's rows of a summary, and the height and width of each map that `features` returns.

    Args:
      backbone: a backbone with `output_norms`.
      size: height and width of the images.
    """
    rows = backbone_rows(backbone, size)
    rows.append(Row("output norms", rows[-1].shape, count(backbone.output_norms), 0))
    shapes = {row.name: row.shape for row in rows}
    return rows, [shapes[f"stage {stage}"][:2] for stage in backbone.outputs]
