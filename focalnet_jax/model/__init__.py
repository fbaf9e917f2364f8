"""What FocalNet is."""

from focalnet_jax.model.focalnet import FocalNet, create_model
from focalnet_jax.model.summary import summarize
from focalnet_jax.model.variants import FocalNetConfig, list_models, variant_config

__all__ = ["FocalNet", "FocalNetConfig", "create_model", "list_models", "summarize", "variant_config"]
