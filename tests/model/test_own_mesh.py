"""On a mesh of the user's program, arrays that the user shards stay sharded."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from focalnet_jax.model import FocalNet, variant_config
from focalnet_jax.model.precision import get_precision
from focalnet_jax.ops import native
from tests.models import drawn_model


@pytest.fixture(scope="module")
def model():
    return drawn_model("focalnet_tiny_srf", embed_dim=8, depths=(2, 1), num_classes=2)


@pytest.mark.parametrize(
    ("shape", "axes", "kind"),
    [((4,), ("data",), AxisType.Explicit), ((2, 2), ("rows", "cols"), AxisType.Auto)],
    ids=["explicit", "auto, two axes"],
)
def test_logits_and_gradients_of_a_split_batch_gather_nothing(model, shape, axes, kind):
    mesh = jax.make_mesh(shape, axes, axis_types=(kind,) * len(axes))
    graph, params = nnx.split(model)
    images = jax.random.normal(jax.random.key(0), (8, 8, 8, 3))

    def with_gradients(params, images):
        def loss(params):
            logits = nnx.merge(graph, params)(images)
            return jnp.sum(logits**2), logits

        gradients, logits = jax.grad(loss, has_aux=True)(params)
        return logits, gradients

    expected, gradients = jax.jit(with_gradients)(params, images)
    split, everywhere = NamedSharding(mesh, P(axes)), NamedSharding(mesh, P())
    given = jax.device_put(params, everywhere), jax.device_put(images, split)
    compiled = jax.jit(with_gradients).lower(*given).compile()
    assert compiled.as_text().count(" all-gather(") == 0
    in_cpp = kind == AxisType.Auto and native.register() is not None
    assert (f"{native.register()}_focal_levels" in compiled.as_text()) == in_cpp
    logits, split_gradients = compiled(*given)
    assert logits.sharding.is_equivalent_to(NamedSharding(mesh, P(axes, None)), 2)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(split_gradients), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_the_page_splits_a_batch_and_averages_gradients(model):
    """Executes the snippets of docs/embedding.md, and compares with one device."""
    page = (Path(__file__).parents[2] / "docs" / "embedding.md").read_text()
    section = page.partition("## A mesh of your own")[2].partition("\n## ")[0]
    graph, params = nnx.split(model)
    names = {"jax": jax, "nnx": nnx, "optax": optax, "graph": graph}
    names |= {"AxisType": AxisType, "NamedSharding": NamedSharding, "P": P}
    given = {
        "params": params,
        "images": jax.random.normal(jax.random.key(0), (8, 8, 8, 3)),
        "labels": jnp.arange(8) % 2,
    }
    names |= given | {"predict": jax.jit(lambda params, images: nnx.merge(graph, params)(images))}
    alone = names["predict"](params, given["images"])
    for snippet in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(snippet, names)
    np.testing.assert_allclose(names["logits"], alone, rtol=1e-5, atol=1e-6)
    assert not names["logits"].sharding.is_fully_replicated
    expected = jax.jit(jax.grad(lambda params: mean_loss(graph, params, given["images"], given["labels"])))(params)
    ours = names["gradients"](*(names[name] for name in given))
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def mean_loss(graph, params, images, labels):
    logits = nnx.merge(graph, params)(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@pytest.mark.parametrize(("implementation", "platform"), [("triton", "cuda"), ("mosaic", "tpu")])
def test_explicit_axes_are_for_xla_where_kernels_are_for_gpus_and_tpus_too(implementation, platform):
    """Checked in the program that JAX traces for these platforms."""
    config = variant_config("focalnet_tiny_srf", embed_dim=32, depths=(1,), num_classes=2, aggregation=implementation)
    precision = get_precision("bfloat16")
    model = nnx.eval_shape(lambda: FocalNet(config, precision=precision, rngs=nnx.Rngs(0), platform=platform))
    graph, params = nnx.split(model)

    def program(kind):
        mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
        placed = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, P())), params
        )
        images = jax.ShapeDtypeStruct((8, 8, 8, 3), jnp.float32, sharding=NamedSharding(mesh, P("data")))
        gradients = jax.grad(lambda params, images: jnp.sum(nnx.merge(graph, params)(images) ** 2))
        return str(jax.make_jaxpr(gradients)(placed, images))

    assert "pallas_call" in program(AxisType.Auto)
    assert "pallas_call" not in program(AxisType.Explicit)


@pytest.mark.skipif(native.register() is None, reason="there is no C++ compiler")
def test_weights_that_are_split_along_channels_give_kernels_the_same_numbers(model):
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    graph, params = nnx.split(model)
    images, labels = jax.random.normal(jax.random.key(0), (8, 8, 8, 3)), jnp.arange(8) % 2

    def split(leaf):
        axes = [None] * (leaf.ndim - 1) + ["tensor"] if leaf.shape[-1] % 2 == 0 else []
        return jax.device_put(leaf, NamedSharding(mesh, P(*axes)))

    run = jax.jit(jax.value_and_grad(lambda *given: mean_loss(graph, *given)))
    placed = jax.tree.map(split, params), *jax.device_put((images, labels), NamedSharding(mesh, P("data")))
    compiled = run.lower(*placed).compile()
    assert f"{native.register()}_focal_levels" in compiled.as_text()
    (loss, gradients), (expected, alone) = compiled(*placed), run(params, images, labels)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_set_mesh_around_a_model_changes_nothing(model):
    graph, params = nnx.split(model)
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    expected = jax.jit(lambda params, images: nnx.merge(graph, params)(images))(params, images)
    for kind in (AxisType.Auto, AxisType.Explicit):
        with jax.set_mesh(jax.make_mesh((4,), ("data",), axis_types=(kind,))):
            placed = jax.device_put(params, P()), jax.device_put(images, P("data"))
            logits = jax.jit(lambda params, images: nnx.merge(graph, params)(images))(*placed)
            np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_images_of_the_host_go_with_parameters_on_explicit_axes(model):
    graph, params = nnx.split(model)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    run = jax.jit(lambda params, images: nnx.merge(graph, params)(images))
    everywhere = NamedSharding(jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,)), P())
    np.testing.assert_allclose(
        run(jax.device_put(params, everywhere), images), run(params, images), rtol=1e-5, atol=1e-6
    )
