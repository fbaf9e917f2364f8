"""FocalNet (Focal Modulation Networks, arXiv 2203.11926) in JAX and Flax NNX."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

__version__ = "0.1.0"

if TYPE_CHECKING:
    from focalnet_jax import visualize
    from focalnet_jax.convert import create_model, load_model
    from focalnet_jax.model import FocalNet, FocalNetConfig, list_models, summarize

# Imported at first use: commands and processes that only read data need no JAX, which takes seconds to import.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submodules=["visualize"],
    submod_attrs={
        "convert": ["create_model", "load_model"],
        "model": ["FocalNet", "FocalNetConfig", "list_models", "summarize"],
    },
)

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
