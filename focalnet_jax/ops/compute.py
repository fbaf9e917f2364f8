"""Describes how a model is computed: one value per model, which the layers pass to the operations in `ops`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from focalnet_jax.errors import UserError
from focalnet_jax.ops.implementations import choose_implementation


@dataclass(frozen=True)
class Compute:
    """Data type, matrix precision and chosen implementations of a model; hashable, so that it can be static under jit.

    `aggregation` and `pointwise` are names in `ops.implementations.IMPLEMENTATIONS`, or "xla"; never "auto".
    """

    dtype: Any  # of activations; parameters are float32
    matmul: jax.lax.PrecisionLike  # of matrix products and convolutions that XLA computes
    aggregation: str = "xla"  # of the focal levels
    pointwise: str = "xla"  # of norms, projections and MLPs

    @property
    def in_cpp(self) -> bool:
        """Whether layers are computed by the CPU's C++ kernels, which support only float32."""
        return self.aggregation == "native" and self.dtype == jnp.float32


EXACT = Compute(jnp.float32, jax.lax.Precision.HIGHEST)
"""float32 by XLA on every platform."""


def choose_compute(
    dtype: Any,
    matmul: jax.lax.PrecisionLike,
    platform: str | None = None,
    *,
    aggregation: str = "auto",
    pointwise: str = "auto",
) -> Compute:
    """Returns the `Compute` of a model for a platform ("cpu", "gpu", "cuda" or "tpu"; None: JAX's default backend).

    Raises:
      UserError: an implementation is unknown, or does not compute this dtype on this platform.
    """
    platform = platform or jax.default_backend()
    name = jnp.dtype(dtype).name
    if aggregation == "native" and name != "float32":
        raise UserError(f"model.aggregation=native computes in float32, the model in {name}: leave it at auto")
    return Compute(
        dtype,
        matmul,
        choose_implementation("aggregation", aggregation, platform, name),
        choose_implementation("pointwise", pointwise, platform, name),
    )
