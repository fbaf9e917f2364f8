"""Converts images in folders or archives to a data set with access by index: `python -m focalnet_jax.data.prepare`."""
