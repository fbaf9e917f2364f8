"""Show training batches of a recipe: python -m focalnet_jax.data.show, see focalnet_jax/programs/show.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("focalnet_jax.programs.show", run_name="__main__")
