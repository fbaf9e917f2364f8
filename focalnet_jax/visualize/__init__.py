"""Visualizes a FocalNet by its modulators, gates, kernels, receptive fields and class activations."""

from focalnet_jax.tasks.classification.activation import class_activation
from focalnet_jax.visualize.maps import StageMaps, focal_kernels, modulation_maps, receptive_field

__all__ = ["StageMaps", "class_activation", "focal_kernels", "modulation_maps", "receptive_field"]
