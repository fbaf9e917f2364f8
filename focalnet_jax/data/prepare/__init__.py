"""Converts images in folders or archives to a data set with random access (`python -m focalnet_jax.data.prepare`)."""
