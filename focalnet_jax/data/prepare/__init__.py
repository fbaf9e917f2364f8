"""Converts images in folders or archives to a data set that is read by index: `python -m focalnet_jax.data.prepare`."""
