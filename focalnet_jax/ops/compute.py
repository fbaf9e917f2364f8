"""Description of how a model is computed, which the layers pass to the operations in `ops`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from focalnet_jax.errors import UserError
from focalnet_jax.ops.implementations import choose_implementation


@dataclass(frozen=True)
class Compute:
    """Dtype, precision and chosen implementations of a model; hashable, so that it can be static under jit.

    The implementations are names in `ops.implementations.IMPLEMENTATIONS`, or "xla", but not "auto".
    """

    dtype: Any  # dtype of activations; parameters are float32
    matmul: jax.lax.PrecisionLike  # precision of matrix products and convolutions that XLA computes
    aggregation: str = "xla"  # implementation of the context aggregation
    pointwise: str = "xla"  # implementation of norms, projections and MLPs

    @property
    def in_cpp(self) -> bool:
        """Whether the layers are computed by the C++ kernels for CPUs, which support only float32."""
        return self.aggregation == "native" and self.dtype == jnp.float32


EXACT = Compute(jnp.float32, jax.lax.Precision.HIGHEST)
"""Full float32 precision, computed by XLA on every platform."""


def choose_compute(
    dtype: Any,
    matmul: jax.lax.PrecisionLike,
    platform: str | None = None,
    *,
    aggregation: str = "auto",
    pointwise: str = "auto",
) -> Compute:
    """Returns the `Compute` of a model on a platform.

    Args:
      dtype: dtype of activations.
      matmul: precision of matrix products and convolutions.
      platform: "cpu", "gpu", "cuda" or "tpu"; by default JAX's backend.
      aggregation: implementation of the context aggregation; "auto" selects the fastest one.
      pointwise: implementation of norms, projections and MLPs; "auto" selects the fastest one.

    Raises:
      UserError: an implementation is unknown, or does not support this dtype or this platform.
    """
    platform = platform or jax.default_backend()
    name = jnp.dtype(dtype).name
    if aggregation == "native" and name != "float32":
        raise UserError(
            f"model.aggregation=native computes only in float32, but the model computes in {name}: set "
            "model.aggregation=auto"
        )
    return Compute(
        dtype,
        matmul,
        choose_implementation("aggregation", aggregation, platform, name),
        choose_implementation("pointwise", pointwise, platform, name),
    )
