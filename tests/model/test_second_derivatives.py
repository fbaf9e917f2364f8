"""Gradients of gradients, for example for gradient penalties and Hessian-vector products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from focalnet_jax.errors import UserError
from focalnet_jax.ops import native
from tests.model import reference
from tests.models import drawn_model

SMALL = dict(embed_dim=8, depths=(2,), focal_levels=1, num_classes=2, pointwise="xla", scan_blocks=True)
IMAGES = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))


def small_model(name="focalnet_tiny_srf", dtype="float32", **options):
    """Returns the graph, parameters that are all nonzero, and the config of a small model."""
    model = drawn_model(name, dtype=dtype, **(SMALL | options))
    graph, params = nnx.split(model)
    noise = lambda leaf: 0.2 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)  # noqa: E731
    return graph, jax.tree.map(lambda leaf: leaf + noise(leaf), params), model.config


def direction(tree, seed):
    """Returns a random direction of the same size as the parameters."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return structure.unflatten([0.3 * jax.random.normal(key, x.shape) for key, x in zip(keys, leaves, strict=True)])


def loss(graph, given, key=None):
    params, images = given
    return jnp.tanh(nnx.merge(graph, params)(images, key)).sum()  # not linear in the logits


def product_with_hessian(graph, given, along, key=None):
    """Returns the Hessian-vector product by gradients of gradients, for the parameters and the images."""

    def slope(given):
        gradients = jax.grad(lambda given: loss(graph, given, key))(given)
        return sum(map(jnp.vdot, jax.tree.leaves(gradients), jax.tree.leaves(along)))

    return jax.tree.leaves(jax.jit(jax.grad(slope))(given))


def exact_slopes(config, given, along, across):
    """Returns the float64 reference's mixed second derivatives along one direction and along each leaf, by differences.

    Four values h = 1e-4 apart: off by h^2, 1e-8, and by float64's roundings over h^2, 1e-8 too.
    """
    leaves, structure = jax.tree.flatten(jax.tree.map(lambda x: np.asarray(x, np.float64), given))
    along, across = ([np.float64(x) for x in jax.tree.leaves(tree)] for tree in (along, across))

    def value(first, second, place):
        moved = [x + 1e-4 * first * step for x, step in zip(leaves, along, strict=True)]
        moved[place] = moved[place] + 1e-4 * second * across[place]
        params, images = structure.unflatten(moved)
        return np.tanh(reference.focalnet(images, params, config)[0]).sum()

    corners = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
    return [sum(sign * value(*at, place) for *at, sign in corners) / 4e-8 for place in range(len(leaves))]


VARIANTS = {
    "xla": {},
    "shifted": {"aggregation": "shifted", "depths": (1,)},
    "unrolled": {"scan_blocks": False},
    "remat dots": {"remat": "dots"},
    "remat full": {"remat": "full"},
    "norms behind, layer scale, overlapped embeddings": {"name": "focalnet_huge_fl3", "depths": (1, 1)},
    "norm in the modulation, normalized": {
        "use_postln_in_modulation": True,
        "normalize_modulator": True,
        "depths": (1,),
    },
    "pooling, without gates and global level": {
        "use_depthwise_conv": False,
        "use_gates": False,
        "use_global_level": False,
        "depths": (1,),
    },
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_products_with_the_hessian_are_those_of_the_float64_reference(options):
    graph, params, config = small_model(**({"aggregation": "xla"} | options))
    given = (nnx.to_pure_dict(params), IMAGES)
    along, across = direction(given, 1), direction(given, 2)
    ours = product_with_hessian(graph, given, along)
    for product, to, expected in zip(
        ours, jax.tree.leaves(across), exact_slopes(config, given, along, across), strict=True
    ):
        # About a hundred float32 roundings of a sum whose terms are as large as its root mean square.
        scale = np.linalg.norm(product) * np.linalg.norm(to) / np.sqrt(product.size)
        assert abs(np.vdot(np.float64(product), np.float64(to)) - expected) < 1e-4 * scale


def test_with_dropout_and_stochastic_depth_they_are_differences_of_gradients():
    graph, params, _ = small_model(aggregation="xla", drop_rate=0.3, drop_path_rate=0.5)
    given, key = (nnx.to_pure_dict(params), jnp.tile(IMAGES, (2, 1, 1, 1))), jax.random.key(4)
    along = direction(given, 1)
    gradients = jax.jit(jax.grad(lambda given: loss(graph, given, key)))
    ahead, behind = (
        jax.tree.leaves(gradients(jax.tree.map(lambda x, step, h=h: x + h * step, given, along))) for h in (0.01, -0.01)
    )
    for product, *around in zip(product_with_hessian(graph, given, along, key), ahead, behind, strict=True):
        expected = (around[0] - around[1]) / 0.02  # errors in norm: h^2 = 1e-4, and roundings of 1e-6 divided by h
        assert np.linalg.norm(product - expected) < 2e-3 * np.linalg.norm(expected)


def test_bfloat16_has_those_of_float32_to_its_roundings():
    exact, coarse = (small_model(aggregation="xla", dtype=dtype, depths=(1,)) for dtype in ("float32", "bfloat16"))
    given = (nnx.to_pure_dict(exact[1]), IMAGES)
    along = direction(given, 1)
    for ours, true in zip(*(product_with_hessian(graph, given, along) for graph, *_ in (coarse, exact)), strict=True):
        # 4e-3 per rounding, with about ten roundings in each of the two backward passes.
        assert np.linalg.norm(ours - true) < 0.08 * np.linalg.norm(true)


@pytest.mark.parametrize(
    ("implementation", "dtype"), [("auto", "float32"), ("shifted", "float32"), ("xla", "float32"), ("xla", "bfloat16")]
)
def test_in_a_loop_of_ones_own_over_batches_they_are_those_without_it(implementation, dtype):
    """Differentiates the classifier's gradient with respect to the images, as in gradient matching."""
    graph, params, _ = small_model(aggregation=implementation, dtype=dtype, depths=(1,))
    head, rest = nnx.split_state(params, lambda path, _: path[0] == "head", ...)
    batches = jax.random.normal(jax.random.key(3), (3, 1, 8, 8, 3))

    def classifier_gradients(batches, loop):
        def add(total, images):
            head, value = total
            logits = nnx.merge(graph, head, rest)(images)
            return (head, value + jnp.tanh(logits).sum()), None

        def loss(head):
            if loop:
                return jax.lax.scan(add, (head, 0.0), batches)[0][1]
            return sum(add((head, 0.0), images)[0][1] for images in batches)

        return sum(jnp.sum(x**2) for x in jax.tree.leaves(jax.grad(loss)(head)))

    in_loop, unrolled = (jax.jit(jax.grad(classifier_gradients), static_argnums=1)(batches, loop) for loop in (1, 0))
    tolerance = 1e-5 if dtype == "float32" else 0.05
    assert np.linalg.norm(in_loop - unrolled) < tolerance * np.linalg.norm(unrolled)


@pytest.mark.skipif(native.register() is None, reason="there is no C++ compiler")
def test_the_error_of_the_native_implementation_names_the_one_that_has_them():
    graph, params, _ = small_model(aggregation="native", scan_blocks=False)
    given = (nnx.to_pure_dict(params), IMAGES)
    with pytest.raises(UserError, match=r"first derivatives only.*model.aggregation=xla"):
        product_with_hessian(graph, given, direction(given, 1))
