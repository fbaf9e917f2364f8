"""Pictures of what a FocalNet looks at."""

from focalnet_jax.visualize.maps import StageMaps, class_activation, focal_kernels, modulation_maps, receptive_field

__all__ = ["StageMaps", "class_activation", "focal_kernels", "modulation_maps", "receptive_field"]
