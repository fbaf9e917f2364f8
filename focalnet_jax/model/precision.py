"""Named precision policies.

Parameters, the statistics of norms, pooling and the classifier are float32 in all policies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from focalnet_jax.errors import UserError, suggest


@dataclass(frozen=True)
class Precision:
    """Dtype of activations, and precision of products."""

    dtype: Any  # of activations
    matmul: jax.lax.Precision  # of matrix products and convolutions


# TPUs and recent GPUs multiply float32 operands in fewer bits by default; "float32" requests full precision.
PRECISIONS = {
    "float32": Precision(jnp.float32, jax.lax.Precision.HIGHEST),
    "bfloat16": Precision(jnp.bfloat16, jax.lax.Precision.DEFAULT),
}


def get_precision(name: str | Any) -> Precision:
    """Returns the policy with this name or dtype.

    Raises:
      UserError: no policy has this name or dtype.
    """
    if not isinstance(name, str):
        try:
            name = "none" if name is None else jnp.dtype(name).name
        except TypeError:
            name = repr(name)
    if name not in PRECISIONS:
        raise UserError(f"unknown precision {name!r}; expected {' or '.join(PRECISIONS)}.{suggest(name, PRECISIONS)}")
    return PRECISIONS[name]
