"""Helpers for config files: parse variants, apply the paper's ablations to a model, and shrink a recipe."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ml_collections import ConfigDict

from focalnet_jax.errors import UserError, suggest
from focalnet_jax.model.variants import VARIANTS, variant_config


def parse_variant(text: str, options: Sequence[str] = (), *, model: str | None = None) -> tuple[str | None, set[str]]:
    """Parses the variant in `--config FILE.py:VARIANT`: a model and options, separated by commas.

    Args:
      text: the variant, such as "base_lrf", "base_lrf,384" or "smoke".
      options: valid options.
      model: full name of the default model; None if the config is for one model only.

    Returns:
      Full name of the model (`model` if `text` names no model), and the given options.

    Raises:
      UserError: a word is unknown, or several models are named.
    """
    models = {name.removeprefix("focalnet_"): name for name in VARIANTS} if model else {}
    chosen: set[str] = set()
    named: list[str] = []
    for word in filter(None, text.split(",")):
        if word in options:
            chosen.add(word)
        elif word.removeprefix("focalnet_") in models:
            named.append(models[word.removeprefix("focalnet_")])
        else:
            known = [*models, *options]
            raise UserError(f"unknown config variant {word!r}.{suggest(word, known)} Known: {', '.join(known)}")
    if len(named) > 1:
        raise UserError(f"config variant {text!r} names {len(named)} models; expected one")
    return named[0] if named else model, chosen


VARIATIONS: dict[str, dict[str, Any]] = {
    "additive": {"use_modulation": False},
    "no_gates": {"use_gates": False},
    "no_global_level": {"use_global_level": False},
    "pooling": {"use_depthwise_conv": False},
    "overlapped": {"use_conv_embed": True},
    "deeper": {},
}
"""Variations of a model in the paper's ablations, and the keys that they set. For `deeper`, see `vary`."""

_DEEPER = {"tiny": (64, (3, 3, 16, 3)), "small": (64, (4, 4, 28, 4)), "base": (96, (4, 4, 28, 4))}


def vary(config: ConfigDict, names: Collection[str]) -> None:
    """Applies some of `VARIATIONS` to the config's model. The values that `deeper` sets depend on the model.

    Raises:
      UserError: `names` has `deeper`, but the paper has no deeper variant of this model.
    """
    for name in sorted(names):
        config.model.update(VARIATIONS[name])
    if "deeper" in names:
        _, size, kind = config.model.name.split("_")
        if size not in _DEEPER or kind == "iso":
            raise UserError(
                f"no config variant deeper of {config.model.name}; expected tiny, small or base, srf or lrf"
            )
        config.model.embed_dim, config.model.depths = _DEEPER[size]


def shrink_to_smoke(config: ConfigDict) -> None:
    """Changes a recipe to six steps of a small model on digits, without `init_from`. Other keys keep their values."""
    config.model.embed_dim = 16
    config.model.depths = (1, 2) if len(variant_config(config.model.name).depths) > 1 else (2,)
    config.model.focal_levels, config.model.focal_windows = 2, 3
    config.batch_size = 16
    config.total_epochs = config.schedule.warmup_epochs = None
    config.eval_every_epochs = config.checkpoint_every_epochs = None
    config.total_steps, config.schedule.warmup_steps = 6, 2
    config.log_every_steps = 1
    config.data.source, config.data.path = "digits", None
    config.data.image_size = 64
    config.data.threads = 2
    config.init_from, config.init_head = None, "keep"
