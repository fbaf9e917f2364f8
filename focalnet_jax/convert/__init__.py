"""Converts weights between checkpoints of this package and the formats of other code bases.

These are the original code, timm, transformers, mmsegmentation and mmdetection.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from focalnet_jax.convert.create import create_model
    from focalnet_jax.convert.load import load_model

# Imported at first use, because a model without pretrained weights does not need the code that reads weights.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__, submod_attrs={"create": ["create_model"], "load": ["load_model"]}
)

__all__ = ["create_model", "load_model"]
