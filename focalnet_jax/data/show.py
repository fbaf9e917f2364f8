"""Show training batches of a recipe: python -m focalnet_jax.data.show, see focalnet_jax/programs/show.py."""

import jax

from focalnet_jax.programs.run_command import run_command
from focalnet_jax.programs.show import main

if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # leaves accelerators to training runs
    run_command(main)
