"""Two test processes share two cores: one thread each for torch."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["OMP_NUM_THREADS"] = "1"
