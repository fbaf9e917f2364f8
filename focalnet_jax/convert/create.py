"""Creates a model of a released variant, with randomly initialised or with pretrained parameters."""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from typing import TYPE_CHECKING, Any

from focalnet_jax.errors import UserError, did_you_mean
from focalnet_jax.model.released import RELEASED, find_released
from focalnet_jax.model.variants import checked_fields, variant_config

if TYPE_CHECKING:
    from pathlib import Path

    from focalnet_jax.model import FocalNet


def create_model(
    name: str,
    *,
    pretrained: bool | str | Path = False,
    num_classes: int | None = None,
    dtype: str | Any = "float32",
    rngs: Any = 0,
    **overrides: Any,
) -> FocalNet:
    """Returns a FocalNet with randomly initialised or with pretrained parameters.

    Args:
      name: name of a released variant (see `list_models`), optionally with the tag of its weights, as in timm.
      pretrained: True to download the released weights from the Hugging Face Hub to its cache (see
        `list_models(pretrained=True)`), or the path or address of other weights (see `load_model`).
      num_classes: number of classes K; 0 for no classifier; by default 1000, or with `pretrained` the number of classes
        of the weights. If K differs from the weights, the classifier is newly initialised.
      dtype: precision policy, "float32" or "bfloat16", as a name or dtype; parameters are float32 in both.
      rngs: randomness for the initialisation of the model or its new classifier: random streams, a seed or a key.
      **overrides: any field of `FocalNetConfig` to replace. With `pretrained`, larger `focal_windows` and more
        `focal_levels` adapt the weights (see `load_model`).

    Raises:
      UserError: a name, option or precision is unknown (the message suggests names), a value is invalid, or the weights
        do not exist, cannot be read or belong to a different variant.
      RunFailedError: the hub cannot be reached and its cache does not contain the weights, or the download failed.

    Warns:
      UserWarning: the classifier is newly initialised, or `load_model` has a warning for the weights.
    """
    from focalnet_jax.model.focalnet import create_model as create_fresh

    variant = name.partition(".")[0] if isinstance(name, str) else name
    variant_config(variant, **overrides)  # raises an error for invalid options before anything is downloaded
    if pretrained is False or pretrained is None:
        return create_fresh(variant, num_classes=num_classes, dtype=dtype, rngs=rngs, **overrides)
    source = find_released(name).address if pretrained is True else _source(variant, pretrained)

    from focalnet_jax.convert.adapt import adapt
    from focalnet_jax.convert.load import model_of
    from focalnet_jax.convert.recognise import NOT_FROM_SHAPES
    from focalnet_jax.convert.weights import read_weights

    options = checked_fields(overrides | {"num_classes": num_classes})
    # The options with which the authors trained the variant. timm's variant may differ, see docs/parity.md.
    usual = variant_config(variant) if pretrained is True else None
    given = {key: options[key] for key in NOT_FROM_SHAPES if key in options}
    given = {key: getattr(usual, key) for key in NOT_FROM_SHAPES if usual} | given
    read = read_weights(source, variant, given, replaced=checked_fields(overrides))
    read.warn(source)
    config = dataclasses.replace(read.config, **options)
    same_head = config.num_classes == read.config.num_classes
    if config.num_classes and not same_head:
        stored = f"{read.config.num_classes} classes" if read.config.num_classes else "no classifier"
        new = f"the classifier for {config.num_classes} classes is newly initialised"
        warnings.warn(f"{source} has {stored}; {new}", stacklevel=2)
    if config != read.config:
        read = adapt(read, config, head="keep" if same_head else "drop", seed=_seed(rngs))
    return model_of(read, dtype)


def _source(variant: str, pretrained: Any) -> str | Path:
    """Returns `pretrained` if it may be the path or address of weights.

    Raises:
      UserError: it is neither a string nor a path; or it is not an existing path, but the tag of released weights or a
        name on the hub without `hf://`.
    """
    if not isinstance(pretrained, str | os.PathLike):
        raise UserError(f"pretrained is {pretrained!r}; expected True, False, or the path or address of weights")
    text = os.fspath(pretrained)
    if isinstance(pretrained, str) and not os.path.exists(os.path.expanduser(text)):
        tagged = [each.address for each in RELEASED if each.name == f"{variant}.{text}"]
        named = [f"hf://{text}"] if re.fullmatch(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w-]*(?:\.ms_\w+)?", text) else []
        if tagged or named:
            raise UserError(f"pretrained is {text!r}, and there is no such file.{did_you_mean(tagged or named)}")
    return pretrained


def _seed(rngs: Any) -> int:
    """Returns a seed drawn from random streams or a key. If `rngs` is a seed already, returns it unchanged."""
    import jax
    from flax import nnx

    if isinstance(rngs, int):
        return rngs
    try:
        key = rngs.params() if isinstance(rngs, nnx.Rngs) else nnx.Rngs(rngs).params()
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"rngs is {rngs!r}; expected nnx.Rngs, a seed or a key of jax.random") from error
    return int(jax.random.randint(key, (), 0, 2**31 - 1))
