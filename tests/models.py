"""Models whose parameters NumPy draws, because initialising in JAX compiles for seconds."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import focalnet_jax
from focalnet_jax.parameters import path_name


def drawn_model(name, *, rngs=0, **options):
    """Returns the model of `focalnet_jax.create_model`, with other random parameters. `rngs` is a seed."""
    return with_drawn_parameters(lambda: focalnet_jax.create_model(name, **options), rngs)


def with_drawn_parameters(build, seed=0):
    """Returns the module that `build` returns, with variables about as large as initialisation makes them."""
    graph, abstract = nnx.split(nnx.eval_shape(build))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        kind = path_name(path).removesuffix("/value").rsplit("/", 1)[-1]
        if kind in ("scale", "gamma1", "gamma2", "var"):
            drawn = np.ones(leaf.shape)
        elif kind in ("bias", "mean"):
            drawn = np.zeros(leaf.shape)
        elif len(leaf.shape) > 3:  # [k, k, in, out], in scanned stages [D, k, k, in, out]
            drawn = rng.uniform(-1, 1, leaf.shape) / np.sqrt(np.prod(leaf.shape[-4:-1]))
        else:  # [in, out], in scanned stages [D, in, out]
            drawn = rng.normal(0, 0.02, leaf.shape)
        return jnp.asarray(drawn.astype(leaf.dtype))

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(draw, abstract))
