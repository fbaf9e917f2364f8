"""Evaluates the features of a frozen backbone with nearest neighbours, linear probes and few-shot classifiers."""

from focalnet_jax.transfer.probes import few_shot, linear_probe, nearest_neighbours

__all__ = ["few_shot", "linear_probe", "nearest_neighbours"]
