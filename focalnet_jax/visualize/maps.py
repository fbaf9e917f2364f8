"""Computes maps of a backbone as arrays: modulators, gates, focal kernels, receptive field.

The maps of a block are defined as in the authors' notebook (https://github.com/microsoft/FocalNet, visualization): the
norm of the modulator over channels, and the gates, which are unbounded because they have no activation function.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.model.blocks import FocalBlock
from focalnet_jax.model.focalnet import Backbone
from focalnet_jax.model.jitted import jitted


@dataclass(frozen=True)
class StageMaps:
    """Maps of the D blocks of a stage, with L focal levels, for B images.

    Attributes:
      modulator: `[D, B, h, w]`, the norm over channels of the modulator (paper section 3.2).
      gates: `[D, B, h, w, L + 1]`, the gates of each focal level and, last, of the global level (paper equation 6);
        `[D, B, h, w, L]` for a model without a global level, `[D, B, h, w, 0]` for a model without gates.
      names: names of the modulator and of each gate; empty for the names in a released variant.
    """

    modulator: np.ndarray
    gates: np.ndarray
    names: tuple[str, ...] = ()


def map_names(config: FocalNetConfig, stage: int) -> tuple[str, ...]:
    """Returns the names of the modulator and of each gate of the stage with index `stage`, from 0."""
    gates = [f"gate, level {level}" for level in range(1, config.levels[stage] + 1)]
    gates += ["gate, global"] if config.use_global_level else []
    return ("modulator" if config.use_modulation else "added context", *(gates if config.use_gates else ()))


def modulation_maps(model: Backbone, images: jax.Array) -> list[StageMaps]:
    """Returns the modulators and gates of every block, one `StageMaps` per stage.

    Args:
      model: any FocalNet; it is applied without stochastic depth and dropout.
      images: `[B, H, W, 3]`, normalized.
    """
    return [
        StageMaps(**jax.tree.map(np.asarray, seen), names=map_names(model.config, stage))
        for stage, seen in enumerate(_modulation_maps(model, jnp.asarray(images)))
    ]


def look_at_modulation(model: Backbone, images: jax.Array) -> list[dict[str, jax.Array]]:
    """Returns the same maps as `modulation_maps`, one dictionary per stage, for use inside jitted functions."""

    def look(block: FocalBlock, x: jax.Array) -> dict[str, jax.Array]:
        _, gates, modulator = block.modulation.parts(block.modulated(x))
        layer = block.modulation.gates  # `parts` adds gates that an ablated model does not have
        gates = gates[..., : layer.out_features if layer is not None else 0]
        norm = jnp.linalg.norm(modulator.astype(jnp.float32), axis=-1)
        return {"modulator": norm, "gates": gates.astype(jnp.float32)}

    return model.look(images, look)[0]


_modulation_maps = jitted(look_at_modulation)


def focal_kernels(model: Backbone) -> list[list[np.ndarray]]:
    """Returns the depthwise kernels, averaged over channels, `[D, k, k]` for each stage and focal level.

    A model that pools instead (`use_depthwise_conv=False`) has no such kernels.
    """
    return [
        [np.asarray(focal.kernel[...]).mean(axis=(-2, -1)) for focal in stage.blocks.modulation.focal_kernels]
        for stage in model.stages
    ]


def receptive_field(model: Backbone, images: jax.Array, stage: int = -1) -> np.ndarray:
    """Returns the effective receptive field of the centre of a stage's output (arXiv 1701.04128).

    This is the gradient of the central output, summed over channels, with respect to each pixel. Absolute values are
    summed over the colours and averaged over the images.

    Args:
      model: any FocalNet.
      images: `[B, H, W, 3]`, normalized.
      stage: index of the stage, from 0; the last stage by default.

    Returns:
      `[H, W]`.

    Raises:
      UserError: the model has no such stage.
    """
    count = len(model.stages)
    if not -count <= stage < count:
        raise UserError(f"stage {stage}: the model has {count} stages; expected 0 to {count - 1}, or -1 for the last")
    return np.asarray(_receptive_field(model, jnp.asarray(images), stage % len(model.stages)))


@partial(jitted, static_argnums=(2,))
def _receptive_field(model: Backbone, images: jax.Array, stage: int) -> jax.Array:
    graph, params = nnx.split(model)

    def centre(images: jax.Array) -> jax.Array:
        output = nnx.merge(graph, params).features(images)[stage].astype(jnp.float32)
        return output[:, output.shape[1] // 2, output.shape[2] // 2].sum()

    return jnp.abs(jax.grad(centre)(images)).sum(axis=-1).mean(axis=0)
