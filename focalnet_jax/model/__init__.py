"""What FocalNet is."""

from typing import TYPE_CHECKING

import lazy_loader

from focalnet_jax.model.variants import FocalNetConfig, list_models, variant_config

if TYPE_CHECKING:
    from focalnet_jax.model.focalnet import FocalNet, create_model
    from focalnet_jax.model.summary import summarize

# What computes is loaded when first asked for: configs need names and numbers alone.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__, submod_attrs={"focalnet": ["FocalNet", "create_model"], "summary": ["summarize"]}
)

__all__ = ["FocalNet", "FocalNetConfig", "create_model", "list_models", "summarize", "variant_config"]
