"""Configures two test processes for two cores, with one torch thread each and a shared compilation cache."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["OMP_NUM_THREADS"] = "1"
# Most programs are needed for the comparisons with both libraries.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parent.parent / ".pytest_cache" / "xla-parity")
os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"
