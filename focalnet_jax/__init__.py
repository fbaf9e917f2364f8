"""FocalNet (Focal Modulation Networks, arXiv 2203.11926) in JAX and Flax NNX."""

from focalnet_jax import visualize
from focalnet_jax.convert import load_model
from focalnet_jax.model import FocalNet, FocalNetConfig, create_model, list_models, summarize
from focalnet_jax.version import __version__

__all__ = [
    "FocalNet",
    "FocalNetConfig",
    "__version__",
    "create_model",
    "list_models",
    "load_model",
    "summarize",
    "visualize",
]
