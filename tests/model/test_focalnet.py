"""The model computes the paper's equations in every implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import focalnet_jax
from focalnet_jax.errors import UserError
from focalnet_jax.model.variants import ABLATIONS
from focalnet_jax.ops.dropout import drop_path, example_keys
from focalnet_jax.parameters import named_leaves
from tests.model import reference
from tests.models import drawn_model

SMALL = dict(embed_dim=8, depths=(2, 3), num_classes=7)
# Without fusions, so that every operation rounds separately.
UNOPTIMISED = {"xla_backend_optimization_level": 0, "xla_disable_hlo_passes": "fusion"}
FLAGS = {
    "srf": ("focalnet_tiny_srf", {}),
    "base_iso": ("focalnet_base_iso", dict(depths=(2,), embed_dim=8)),
    "large_fl4": ("focalnet_large_fl4", {}),
    "huge_fl3": ("focalnet_huge_fl3", {}),
    **{field: ("focalnet_tiny_lrf", {field: False}) for field in ABLATIONS},
    "all ablations": ("focalnet_large_fl4", dict.fromkeys(ABLATIONS, False)),
}


def small_model(name="focalnet_tiny_lrf", seed=0, **options):
    """Returns a small model with random parameters, so that leaving one out changes the result."""
    model = drawn_model(name, **(SMALL | options))
    graph, state = nnx.split(model)
    leaves, tree = jax.tree.flatten(state)
    rng = np.random.default_rng(seed)
    leaves = [leaf + jnp.asarray(rng.normal(0, 0.2, leaf.shape), leaf.dtype) for leaf in leaves]
    return nnx.merge(graph, jax.tree.unflatten(tree, leaves))


def images(shape=(2, 32, 40, 3), seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def loss_and_gradients(model, x, key, **compiler_options):
    graph, params = nnx.split(model)

    def loss(params):
        return jnp.sum(nnx.merge(graph, params)(x, key) ** 2)

    return jax.jit(jax.value_and_grad(loss), compiler_options=compiler_options)(nnx.to_pure_dict(params))


@pytest.mark.parametrize("flags", FLAGS)
def test_logits_and_features_equal_the_float64_reference(flags):
    name, options = FLAGS[flags]
    model = small_model(name, **options)
    x = images((1, 37, 32, 3))  # 37 is not a multiple of a stride: rounded down
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), nnx.to_pure_dict(nnx.state(model)))
    logits, features = reference.focalnet(np.asarray(x, np.float64), params, model.config)
    # float32 has an error of 6e-8 per rounding, and a few thousand roundings add up along five blocks
    np.testing.assert_allclose(model(x), logits, rtol=1e-5, atol=1e-5 * np.abs(logits).max())
    for ours, theirs in zip(model.features(x), features, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


def test_unrolled_blocks_give_exactly_the_numbers_of_scanned_ones():
    x, key = images(), jax.random.key(5)
    options = dict(depths=(2,), focal_levels=2, drop_path_rate=0.3, drop_rate=0.1)
    scanned, unrolled = (small_model(**options, scan_blocks=scan) for scan in (True, False))
    assert "scan[" in str(jax.make_jaxpr(lambda x: scanned(x))(x))
    assert "scan[" not in str(jax.make_jaxpr(lambda x: unrolled(x))(x))
    sized = images((2, 41, 37, 3))
    scanned_logits, unrolled_logits = (
        jax.jit(lambda x, m=m: m(x), compiler_options=UNOPTIMISED)(sized) for m in (scanned, unrolled)
    )
    np.testing.assert_array_equal(scanned_logits, unrolled_logits)
    # With optimisations, XLA rounds a * b + c only once where its fusions allow it: differences of some float32
    # roundings. Without optimisations, loss and gradients must be bitwise equal.
    optimised = jax.jit(lambda x: scanned(x))(sized), jax.jit(lambda x: unrolled(x))(sized)
    np.testing.assert_allclose(*optimised, rtol=1e-5, atol=1e-6)
    (loss, gradients), (loss_unrolled, gradients_unrolled) = (
        loss_and_gradients(model, x, key, **UNOPTIMISED) for model in (scanned, unrolled)
    )
    assert loss == loss_unrolled
    for name, leaf in named_leaves(gradients).items():
        np.testing.assert_array_equal(leaf, named_leaves(gradients_unrolled)[name], err_msg=name)


def assert_close_in_norm(tree, other, tolerance):
    for name, leaf in named_leaves(tree).items():
        expected = named_leaves(other)[name]
        assert np.linalg.norm(leaf - expected) <= tolerance * np.linalg.norm(expected), name


@pytest.mark.parametrize(("remat", "share"), [("dots", 0.85), ("full", 0.4)])
def test_remat_changes_what_is_kept_but_not_the_numbers(remat, share):
    x, key = images(), jax.random.key(5)
    options = dict(depths=(2,), drop_path_rate=0.3)
    plain, rematted = (small_model(**options, remat=policy) for policy in ("none", remat))
    (loss, gradients), (loss_remat, gradients_remat) = (
        loss_and_gradients(model, x, key) for model in (plain, rematted)
    )
    # recomputed values are fused differently and differ by some float32 roundings
    assert float(loss) == pytest.approx(float(loss_remat), rel=1e-6)
    assert_close_in_norm(gradients, gradients_remat, 2e-6)

    def kept(model):
        graph, params = nnx.split(model)
        _, residuals = jax.eval_shape(lambda p: jax.vjp(lambda p: nnx.merge(graph, p)(x), p), params)
        return sum(leaf.size for leaf in jax.tree.leaves(residuals))

    assert kept(rematted) < share * kept(plain)


def test_bfloat16_computes_in_bfloat16_with_float32_parameters_and_logits():
    exact, coarse = small_model(), small_model(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(coarse))} == {jnp.dtype("float32")}
    assert [f.dtype for f in coarse.features(images())] == [jnp.bfloat16] * 2
    logits = coarse(images())
    assert logits.dtype == jnp.float32
    assert not np.array_equal(logits, logits.astype(jnp.bfloat16))  # the classifier computes in float32
    # bfloat16 has 8 bits, an error of 0.4 % per rounding, and about ten roundings follow each other
    assert np.linalg.norm(logits - exact(images())) < 0.05 * np.linalg.norm(logits)
    assert not np.array_equal(logits, exact(images()))


def test_features_are_one_map_a_stage_before_its_downsample():
    model = small_model(depths=(1, 1, 1), focal_levels=2)
    features = jax.eval_shape(model.features, images((2, 67, 35, 3)))
    assert [f.shape for f in features] == [(2, 16, 8, 8), (2, 8, 4, 16), (2, 4, 2, 32)]


def test_the_smallest_images_of_overlapped_embeddings_give_finite_logits():
    assert np.isfinite(small_model(use_conv_embed=True)(images((1, 3, 3, 3)))).all()


def test_a_model_without_classifier_returns_pooled_features():
    model = small_model(num_classes=0)
    assert model(images()).shape == (2, 16)
    assert "head" not in nnx.to_pure_dict(nnx.state(model))


def test_randomness_needs_a_key_and_repeats_with_it():
    model = small_model(drop_path_rate=0.5)
    x = images()
    np.testing.assert_array_equal(model(x), model(x))
    np.testing.assert_array_equal(model(x, jax.random.key(1)), model(x, jax.random.key(1)))
    assert not np.array_equal(model(x, jax.random.key(1)), model(x, jax.random.key(2)))
    still = small_model(drop_path_rate=0.0)
    np.testing.assert_array_equal(still(x, jax.random.key(1)), still(x))


def test_stochastic_depth_drops_a_branch_of_an_example_with_its_rate():
    keys = example_keys(jax.random.key(0), 4000)
    dropped = drop_path(jnp.ones((4000, 2, 2, 3)), jnp.float32(0.3), keys)
    per_example = np.asarray(dropped).reshape(4000, -1)
    assert (per_example == per_example[:, :1]).all()
    np.testing.assert_allclose(np.unique(per_example), [0, 1 / 0.7], rtol=1e-6)
    # 4000 draws: four standard deviations of the share, which are .0072 each
    assert abs((per_example[:, 0] == 0).mean() - 0.3) < 0.029


def test_random_draws_of_an_example_do_not_depend_on_its_batch():
    model = small_model(drop_path_rate=0.5, drop_rate=0.1)
    x, keys = images(), example_keys(jax.random.key(3), len(images()))
    np.testing.assert_array_equal(model(x, keys), model(x, jax.random.key(3)))
    # At a different position in a different batch; no sums are over the batch.
    np.testing.assert_allclose(model(x[::-1], keys[::-1])[::-1], model(x, keys), rtol=1e-5, atol=1e-6)


def test_initialisation_follows_the_original():
    model = focalnet_jax.create_model("focalnet_tiny_lrf", embed_dim=64, depths=(2, 2), use_layerscale=True)
    params = named_leaves(nnx.to_pure_dict(nnx.state(model)))
    blocks = "stages/1/blocks/"
    normal = params[f"{blocks}mlp/fc1/kernel"]  # 2 x 128 x 512
    assert np.std(normal) == pytest.approx(0.02, rel=0.01)
    assert 0.07 < np.abs(normal).max() < 0.15  # not truncated at two standard deviations, and no value beyond seven
    for name, fan_in in (
        ("focal_kernels/2/kernel", 49),
        ("modulator/kernel", 128),
        ("modulator/bias", 128),
    ):
        leaf = np.asarray(params[f"{blocks}modulation/{name}"])
        bound = fan_in**-0.5
        assert 0.95 * bound < np.abs(leaf).max() <= bound, name
        assert np.std(leaf) == pytest.approx(bound / 3**0.5, rel=0.1), name
    stem = np.asarray(params["patch_embed/proj/kernel"])
    assert np.abs(stem).max() == pytest.approx(48**-0.5, rel=0.01)
    for name, leaf in params.items():
        if name.endswith(("query/bias", "context/bias", "gates/bias", "fc1/bias", "head/bias", "norm1/bias")):
            assert not np.any(leaf), name
        if name.endswith("scale"):
            assert (leaf == 1).all(), name
        if name.endswith(("gamma1", "gamma2")):
            assert (leaf == np.float32(1e-4)).all(), name
    first, second = params[f"{blocks}mlp/fc1/kernel"]
    assert not np.array_equal(first, second)  # stacked blocks have different random values


@pytest.mark.parametrize(
    ("shape", "overlapped", "message"),
    [
        ((2, 7, 32, 3), False, "at least 8x8"),
        ((2, 32, 32, 1), False, "[B, H, W, 3]"),
        ((32, 32, 3), False, "[B, H, W, 3]"),
        ((2, 2, 9, 3), True, "at least 3x3"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape, overlapped, message):
    model = small_model(use_conv_embed=overlapped)
    with pytest.raises(UserError) as caught:
        model(jnp.zeros(shape))
    assert message in str(caught.value)
