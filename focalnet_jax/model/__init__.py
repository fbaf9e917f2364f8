"""FocalNet: configurations, the backbone and the classifier."""

from typing import TYPE_CHECKING

import lazy_loader

from focalnet_jax.model.variants import FocalNetConfig, list_models, variant_config

if TYPE_CHECKING:
    from focalnet_jax.model.focalnet import Backbone, FocalNet, create_model
    from focalnet_jax.model.summary import summarize

# Modules that load JAX are imported at first use, because configs need names and numbers only.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__, submod_attrs={"focalnet": ["Backbone", "FocalNet", "create_model"], "summary": ["summarize"]}
)

__all__ = ["Backbone", "FocalNet", "FocalNetConfig", "create_model", "list_models", "summarize", "variant_config"]
