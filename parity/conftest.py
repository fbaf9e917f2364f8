"""Every program runs once or fifty times, so compiling is most of the time: XLA compiles without optimising."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
