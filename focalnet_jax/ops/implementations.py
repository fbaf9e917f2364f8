"""In which forms parts of the model are computed, and where each is the fastest (docs/performance.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from focalnet_jax.errors import UserError, suggest

# By option of the model. Of forms of our own, the fastest first, the platforms they are for, as JAX calls them.
FORMS = {
    "aggregation": {"native": ("cpu",), "shifted": ("cpu",), "triton": ("gpu", "cuda"), "mosaic": ("tpu",)},
    "pointwise": {"mosaic": ("tpu",)},
}
_CHIPS = {"native": "CPUs", "shifted": "CPUs", "triton": "NVIDIA GPUs", "mosaic": "TPUs"}


def names(option: str) -> tuple[str, ...]:
    """What an option may be."""
    return ("auto", "xla", *FORMS[option])


def choose_form(option: str, form: str, platform: str, dtype: str = "float32") -> str:
    """The form to compute a dtype with on a platform, as JAX calls them: "auto" is the fastest there.

    Raises:
      UserError: there is no such form, or not on that platform, or it cannot be compiled here.
    """
    from focalnet_jax.ops import native  # not above, as it loads JAX: names of forms need none

    ours, known = FORMS[option], names(option)
    if form not in known:
        raise UserError(f"model.{option} is {form!r}; expected one of {', '.join(known)}.{suggest(form, known)}")
    if form in ours and platform not in ours[form]:
        raise UserError(f"model.{option}={form} needs {_CHIPS[form]}, the devices are {platform}: leave it at auto")
    if form == "native" and native.register() is None:
        raise UserError(f"model.{option}=native is compiled where it runs, but {native.why_not()}: leave it at auto")
    if form != "auto":
        return form
    there = (name for name, platforms in ours.items() if platform in platforms)
    compiled = dtype == "float32" and native.register() is not None  # see `ops.native.supports`
    return next((name for name in there if name != "native" or compiled), "xla")


def describe_implementations(model: Mapping[str, Any], precision: str, platform: str) -> str:
    """The forms that a model with these options, None where not set, is computed in on a platform: for people."""
    from focalnet_jax.ops import native

    asked = {option: model[option] or "auto" for option in FORMS}
    chosen = {option: choose_form(option, form, platform, precision) for option, form in asked.items()}
    said = ", ".join(f"{option} {form}" for option, form in chosen.items())
    missed = (platform, precision, asked["aggregation"]) == ("cpu", "float32", "auto") and native.register() is None
    return said + (f" (not native: {native.why_not()})" if missed else "")
