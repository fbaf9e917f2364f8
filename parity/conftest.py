"""Test processes: two share two cores, with one torch thread each, and the compilation cache."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["OMP_NUM_THREADS"] = "1"
# Most programs are compiled for both libraries.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parent.parent / ".pytest_cache" / "xla-parity")
os.environ["JAX_PERSISTENT_COMPILATION_CACHE_ENABLE_XLA_CACHES"] = "none"
