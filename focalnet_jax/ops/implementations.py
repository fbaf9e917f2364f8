"""Implementations of the model's operations, and the fastest of them by platform (docs/performance.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from focalnet_jax.errors import UserError, suggest

# By model option: implementations besides XLA's, the fastest first, and the platforms they run on, by JAX's names.
IMPLEMENTATIONS = {
    "aggregation": {"native": ("cpu",), "shifted": ("cpu",), "triton": ("gpu", "cuda"), "mosaic": ("tpu",)},
    "pointwise": {"mosaic": ("tpu",)},
}
_CHIPS = {"native": "CPUs", "shifted": "CPUs", "triton": "NVIDIA GPUs", "mosaic": "TPUs"}


def names(option: str) -> tuple[str, ...]:
    """Returns the values that the option `model.aggregation` or `model.pointwise` accepts."""
    return ("auto", "xla", *IMPLEMENTATIONS[option])


def choose_implementation(option: str, implementation: str, platform: str, dtype: str = "float32") -> str:
    """Returns the implementation of an operation for a dtype on a platform; "auto" is the fastest one.

    Args:
      option: name of the option, "aggregation" or "pointwise".
      implementation: one of `names(option)`.
      platform: name of the platform: "cpu", "gpu", "cuda" or "tpu".
      dtype: dtype of activations.

    Raises:
      UserError: the implementation is unknown, is for another platform, or cannot be compiled on this machine.
    """
    from focalnet_jax.ops import native  # not above, because it loads JAX and the names here need none

    ours, known = IMPLEMENTATIONS[option], names(option)
    if implementation not in known:
        expected = f"expected one of {', '.join(known)}.{suggest(implementation, known)}"
        raise UserError(f"model.{option} is {implementation!r}; {expected}")
    if implementation in ours and platform not in ours[implementation]:
        needs = f"needs {_CHIPS[implementation]}, the devices are {platform}: leave it at auto"
        raise UserError(f"model.{option}={implementation} {needs}")
    if implementation == "native" and native.register() is None:
        raise UserError(f"model.{option}=native is compiled where it runs, but {native.why_not()}: leave it at auto")
    if implementation != "auto":
        return implementation
    here = (name for name, platforms in ours.items() if platform in platforms)
    compiled = dtype == "float32" and native.register() is not None  # see `ops.native.supports`
    return next((name for name in here if name != "native" or compiled), "xla")


def describe_implementations(model: Mapping[str, Any], precision: str, platform: str) -> str:
    """Returns a line that describes the implementations used by a model with these options (None: not set)."""
    from focalnet_jax.ops import native

    requested = {option: model[option] or "auto" for option in IMPLEMENTATIONS}
    chosen = {option: choose_implementation(option, name, platform, precision) for option, name in requested.items()}
    line = ", ".join(f"{option} {name}" for option, name in chosen.items())
    uncompiled = (platform, precision, requested["aggregation"]) == ("cpu", "float32", "auto")
    return line + (f" (not native: {native.why_not()})" if uncompiled and native.register() is None else "")
