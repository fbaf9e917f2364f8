"""Normalization of images on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from focalnet_jax.data.preprocessing import IMAGENET, Normalization


def normalize(images: jax.Array, by: Normalization = IMAGENET) -> jax.Array:
    """Converts uint8 images `[B, H, W, 3]` to normalized float32, `(images / 255 - mean) / std`."""
    return (images.astype(jnp.float32) / 255 - jnp.array(by.mean)) / jnp.array(by.std)
