"""Converts weights between checkpoints of this package and PyTorch files of Microsoft, timm and Hugging Face."""

from focalnet_jax.convert.load import load_model

__all__ = ["load_model"]
