"""Dropout and stochastic depth with one PRNG key per example, so that no draw depends on other examples."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def example_keys(key: jax.Array, batch: int) -> jax.Array:
    """Returns one PRNG key per example, `[B]`, from one key."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))


def split_keys(keys: jax.Array, count: int) -> jax.Array:
    """Returns `count` new PRNG keys per example, `[count, B]`, from the keys of the examples, `[B]`."""
    return jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, count))(keys), 0, 1)


def dropout(x: jax.Array, rate: float, keys: jax.Array | None) -> jax.Array:
    """Sets elements of `x` to zero with probability `rate`, and divides the others by 1 - `rate`.

    Args:
      x: input `[B, ...]`.
      rate: probability in [0, 1).
      keys: PRNG keys `[B]`, or None to return `x` unchanged.
    """
    if keys is None or rate == 0.0:
        return x
    return _drop(x, rate, keys, x.shape[1:])


def channel_dropout(x: jax.Array, rate: float, keys: jax.Array | None) -> jax.Array:
    """Sets whole channels of each example to zero with probability `rate`, and divides the others by 1 - `rate`.

    Args:
      x: input `[B, H, W, C]`.
      rate: probability in [0, 1).
      keys: PRNG keys `[B]`, or None to return `x` unchanged.
    """
    if keys is None or rate == 0.0:
        return x
    return _drop(x, rate, keys, (1, 1, x.shape[-1]))


def drop_path(x: jax.Array, rate: jax.Array, keys: jax.Array | None) -> jax.Array:
    """Stochastic depth (arXiv 1603.09382): sets whole examples of a branch to zero with probability `rate`.

    The other examples are divided by 1 - `rate`.

    Args:
      x: output of the branch, `[B, H, W, C]`.
      rate: probability in [0, 1), a scalar.
      keys: PRNG keys `[B]`, or None to return `x` unchanged.
    """
    if keys is None:
        return x
    return _drop(x, rate, keys, (1, 1, 1))


def _drop(x: jax.Array, rate: jax.Array | float, keys: jax.Array, shape: Sequence[int]) -> jax.Array:
    keep = 1.0 - jnp.asarray(rate, jnp.float32)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, keep, tuple(shape)))(keys)
    return x * jnp.where(kept, 1.0 / keep, 0.0).astype(x.dtype)
