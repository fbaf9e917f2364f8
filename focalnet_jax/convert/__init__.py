"""Weights from and to PyTorch: the original's, timm's and Hugging Face's files, and checkpoints of ours."""

from focalnet_jax.convert.load import load_model

__all__ = ["load_model"]
