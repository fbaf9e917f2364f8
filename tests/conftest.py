"""Every test process sees 8 virtual CPU devices and shares compiled programs with the others."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
# A program compiled once serves all tests and the processes they start; its key is the program and the flags.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parent.parent / ".pytest_cache" / "xla")
os.environ["JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_COMPILATION_CACHE_ENABLE_XLA_CACHES"] = "none"
