"""Names of the implementations of the model's operations, and the choice of the fastest one (docs/performance.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from focalnet_jax.errors import UserError, suggest

# For each option of the model, the implementations besides "xla", fastest first, and JAX's names of their platforms.
IMPLEMENTATIONS = {
    "aggregation": {"native": ("cpu",), "shifted": ("cpu",), "triton": ("gpu", "cuda"), "mosaic": ("tpu",)},
    "pointwise": {"mosaic": ("tpu",)},
}
PORTABLE = dict.fromkeys(IMPLEMENTATIONS, "xla")  # values of these options that run on all platforms
_CHIPS = {"native": "CPUs", "shifted": "CPUs", "triton": "NVIDIA GPUs", "mosaic": "TPUs"}


def names(option: str) -> tuple[str, ...]:
    """Returns the values that the option `model.aggregation` or `model.pointwise` accepts."""
    return ("auto", "xla", *IMPLEMENTATIONS[option])


def choose_implementation(option: str, implementation: str, platform: str, dtype: str = "float32") -> str:
    """Returns the name of the implementation to use on a platform.

    Args:
      option: name of the option, "aggregation" or "pointwise".
      implementation: one of `names(option)`; "auto" selects the fastest implementation.
      platform: JAX's name of the platform: "cpu", "gpu", "cuda" or "tpu".
      dtype: dtype of activations.

    Raises:
      UserError: the implementation is unknown, is for another platform, or cannot be compiled on this machine.
    """
    from focalnet_jax.ops import native  # imported here, because it loads JAX, which `names` does not need

    ours, known = IMPLEMENTATIONS[option], names(option)
    if implementation not in known:
        expected = f"expected one of {', '.join(known)}.{suggest(implementation, known)}"
        raise UserError(f"model.{option} is {implementation!r}; {expected}")
    if implementation in ours and platform not in ours[implementation]:
        needs = f"needs {_CHIPS[implementation]}, but the platform is {platform}: set model.{option}=auto"
        raise UserError(f"model.{option}={implementation} {needs}")
    if implementation == "native" and native.register() is None:
        raise UserError(
            f"model.{option}=native must be compiled on this machine, but {native.why_not()}; set model.{option}=auto"
        )
    if implementation != "auto":
        return implementation
    here = (name for name, platforms in ours.items() if platform in platforms)
    compiled = dtype == "float32" and native.register() is not None  # see `ops.native.supports`
    return next((name for name in here if name != "native" or compiled), "xla")


def describe_implementations(model: Mapping[str, Any], precision: str, platform: str) -> str:
    """Returns a line with the implementations that a model uses.

    Args:
      model: options of the model; None means "auto".
      precision: name of the precision policy, "float32" or "bfloat16".
      platform: JAX's name of the platform: "cpu", "gpu", "cuda" or "tpu".
    """
    from focalnet_jax.ops import native

    requested = {option: model[option] or "auto" for option in IMPLEMENTATIONS}
    chosen = {option: choose_implementation(option, name, platform, precision) for option, name in requested.items()}
    line = ", ".join(f"{option} {name}" for option, name in chosen.items())
    uncompiled = (platform, precision, requested["aggregation"]) == ("cpu", "float32", "auto")
    return line + (f" (not native: {native.why_not()})" if uncompiled and native.register() is None else "")
