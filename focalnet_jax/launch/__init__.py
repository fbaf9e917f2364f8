"""Runs a command as several processes on one machine."""

import lazy_loader

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"__main__": ["main"]})

__all__ = ["main"]
