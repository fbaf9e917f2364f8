"""Makes a report of runs, with curves and tables on one page."""

import lazy_loader

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__, submod_attrs={"__main__": ["main"], "page": ["draw"], "runs": ["read_run"]}
)

__all__ = ["draw", "main", "read_run"]
