"""Converts images in folders or archives to data sets with random access (`python -m focalnet_jax.data.prepare`)."""
