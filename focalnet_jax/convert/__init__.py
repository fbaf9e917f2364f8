"""Converts weights between this package's checkpoints and PyTorch files (the original's, timm's, Hugging Face's)."""

from focalnet_jax.convert.load import load_model

__all__ = ["load_model"]
