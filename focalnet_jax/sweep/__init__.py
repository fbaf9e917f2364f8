"""Trains a recipe with all combinations of given settings."""

import lazy_loader

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"__main__": ["main"]})

__all__ = ["main"]
