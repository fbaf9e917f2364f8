"""Evaluation of a frozen backbone's features on other data."""

from focalnet_jax.transfer.probes import few_shot, linear_probe, nearest_neighbours

__all__ = ["few_shot", "linear_probe", "nearest_neighbours"]
