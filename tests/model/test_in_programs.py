"""The model works under the transformations of other programs: per-example gradients, loops, Flax's transformations."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from focalnet_jax import load_model
from tests.models import drawn_model

SMALL = dict(embed_dim=8, depths=(2,), focal_levels=1, num_classes=3)
GOLDEN = Path(__file__).parents[1] / "convert" / "golden" / "timm_lrf.safetensors"
IMAGES = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
LABELS = jnp.arange(4) % 3
implementations = pytest.mark.parametrize("implementation", ["auto", "xla"])


def parts(implementation="auto", **options):
    """A model whose blocks run in a loop; of "auto", which never loops over them, a model of one block."""
    depths = (1,) if implementation == "auto" else SMALL["depths"]
    options = SMALL | {"depths": depths} | options
    return nnx.split(drawn_model("focalnet_tiny_srf", aggregation=implementation, **options))


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def loss_of(graph):
    return lambda params, images, labels: cross_entropy(nnx.merge(graph, params)(images), labels)


def assert_close(tree, other):
    """Asserts equality up to some float32 roundings of sums in a different order."""
    for one, another in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(one, another, rtol=1e-4, atol=1e-5 * np.abs(another).max())


@implementations
def test_gradients_of_each_example_are_those_of_batches_of_one(implementation):
    graph, params = parts(implementation)
    gradient = jax.grad(lambda params, image, label: loss_of(graph)(params, image[None], label[None]))
    each = jax.jit(jax.vmap(gradient, (None, 0, 0)))(params, IMAGES, LABELS)
    one = jax.jit(gradient)
    for place in range(len(IMAGES)):
        assert_close(jax.tree.map(lambda leaf, at=place: leaf[at], each), one(params, IMAGES[place], LABELS[place]))
    whole = jax.jit(jax.grad(loss_of(graph)))(params, IMAGES, LABELS)
    assert_close(jax.tree.map(lambda leaf: leaf.mean(0), each), whole)


@implementations
def test_a_jacobian_has_the_gradient_of_each_logit(implementation):
    graph, params = parts(implementation)
    model = nnx.merge(graph, params)
    jacobian = jax.jit(jax.jacrev(lambda image: model(image[None])[0]))(IMAGES[0])
    assert jacobian.shape == (3, 16, 16, 3)
    logit = jax.jit(jax.grad(lambda image, place: model(image[None])[0, place]))
    assert_close(list(jacobian), [logit(IMAGES[0], place) for place in range(3)])


@implementations
def test_models_compute_in_a_batch_of_models_as_alone(implementation):
    graph, first = parts(implementation)
    several = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, parts(implementation, rngs=1)[1])
    logits = jax.jit(jax.vmap(lambda params: nnx.merge(graph, params)(IMAGES)))(several)
    assert_close(logits[0], nnx.merge(graph, first)(IMAGES))


@implementations
def test_forward_mode_is_refused_by_jax_and_changes_nothing(implementation):
    graph, params = parts(implementation)
    model = nnx.merge(graph, params)
    before = model(IMAGES)
    for derive in (
        lambda: jax.jvp(model, (IMAGES,), (IMAGES,)),
        lambda: jax.jacfwd(model)(IMAGES[:1]),
    ):
        with pytest.raises(TypeError, match=r"can't apply forward-mode .* to a custom_vjp"):
            derive()
    np.testing.assert_array_equal(model(IMAGES), before)


@pytest.mark.parametrize(
    "options",
    [{"aggregation": "xla"}, {"aggregation": "shifted"}, {"aggregation": "xla", "remat": "full"}],
    ids=["xla", "shifted", "remat"],
)
def test_forward_mode_over_gradients_gives_products_with_the_hessian(options):
    model = drawn_model("focalnet_tiny_srf", pointwise="xla", **(SMALL | options))
    gradient = jax.grad(lambda images: (model(images) ** 2).sum())
    along = jnp.cos(IMAGES)
    forward = jax.jit(lambda images: jax.jvp(gradient, (images,), (along,))[1])
    reverse = jax.jit(jax.grad(lambda images: jnp.vdot(gradient(images), along)))
    assert_close(forward(IMAGES), reverse(IMAGES))


@implementations
def test_steps_in_a_loop_are_steps_one_by_one(implementation):
    graph, params = parts(implementation)
    sgd = optax.sgd(0.1, momentum=0.9)

    def step(state, batch):
        params, inner = state
        loss, gradients = jax.value_and_grad(loss_of(graph))(params, *batch)
        updates, inner = sgd.update(gradients, inner)
        return (optax.apply_updates(params, updates), inner), loss

    batches = jnp.stack([IMAGES, -IMAGES, 2 * IMAGES]), jnp.stack([LABELS] * 3)
    start = params, sgd.init(params)
    (in_loop, _), losses = jax.jit(lambda start, batches: jax.lax.scan(step, start, batches))(start, batches)
    state, one = start, jax.jit(step)
    for place in range(3):
        state, loss = one(state, jax.tree.map(lambda x, at=place: x[at], batches))
        assert_close(losses[place], loss)
    assert_close(in_loop, state[0])


def test_gradients_through_steps_in_a_loop_are_those_through_steps_one_by_one():
    """Differentiates training steps in a loop with respect to the initial parameters, as for learned initialisation."""
    graph, params = parts("xla", depths=(1,))

    def after(rate, params, loop):
        def step(params, images):
            gradients = jax.grad(loss_of(graph))(params, images, LABELS)
            return jax.tree.map(lambda param, gradient: param - rate * gradient, params, gradients), None

        batches = jnp.stack([IMAGES, -IMAGES])
        if loop:
            params, _ = jax.lax.scan(step, params, batches)
        else:
            for images in batches:
                params, _ = step(params, images)
        return loss_of(graph)(params, IMAGES, LABELS)

    in_loop, unrolled = (
        jax.jit(jax.grad(after, (0, 1)), static_argnums=2)(0.1, params, loop) for loop in (True, False)
    )
    assert_close(in_loop, unrolled)


@implementations
def test_checkpoint_around_a_model_changes_no_gradient(implementation):
    graph, params = parts(implementation)
    loss = loss_of(graph)
    plain = jax.jit(jax.grad(loss))(params, IMAGES, LABELS)
    again = jax.jit(jax.grad(jax.checkpoint(loss)))(params, IMAGES, LABELS)
    assert_close(again, plain)


def made():
    return drawn_model("focalnet_tiny_srf", **SMALL)


def loaded():
    return load_model(GOLDEN, use_postln=False, normalize_modulator=False)


@pytest.mark.parametrize("model_of", [made, loaded])
def test_flax_trains_a_model_as_jax_does_its_parts(model_of):
    model = model_of()
    graph, params = nnx.split(model_of())
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

    def loss(model):
        return cross_entropy(model(IMAGES), LABELS)

    @nnx.jit
    def step(model, optimizer):
        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    expected, gradients = jax.jit(jax.value_and_grad(loss_of(graph)))(params, IMAGES, LABELS)
    np.testing.assert_allclose(step(model, optimizer), expected, rtol=1e-6)
    assert_close(nnx.state(model), jax.tree.map(lambda param, gradient: param - 0.1 * gradient, params, gradients))
    assert nnx.jit(loss)(model) < expected
    assert jax.tree.structure(nnx.jit(nnx.grad(loss))(model)) == jax.tree.structure(nnx.state(model, nnx.Param))


def test_shapes_are_known_without_computing():
    model = nnx.eval_shape(made)  # no parameter is allocated
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(model)))
    logits = nnx.eval_shape(lambda model, images: model(images), model, jax.ShapeDtypeStruct((5, 32, 64, 3), jnp.uint8))
    assert (logits.shape, logits.dtype) == ((5, 3), jnp.float32)
    graph, params = parts()
    gradients = jax.eval_shape(jax.grad(loss_of(graph)), params, IMAGES, LABELS)
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, params)
