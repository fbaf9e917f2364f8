"""Adapting weights to a different classifier, larger windows or more levels does not change the other weights."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import focalnet_jax
from focalnet_jax.checkpoint.weights import save_params
from focalnet_jax.convert.adapt import adapt
from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.load import load_into
from focalnet_jax.convert.mapping import param_shapes
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.data.class_lists import UNTRAINED_22K, class_list, class_names
from focalnet_jax.errors import UserError
from focalnet_jax.model.variants import model_metadata
from focalnet_jax.parameters import named_leaves
from tests.convert.random_weights import weights_of, with_classes

GOLDEN = Path(__file__).parent / "golden" / "timm_lrf.safetensors"
PLAIN = dict(use_postln=False, normalize_modulator=False)


def on_one_device(config):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), param_shapes(config))


def body(weights):
    return {name: value for name, value in named_leaves(weights.params).items() if not name.startswith("head/")}


def test_drop_starts_a_fresh_classifier_and_keeps_all_else():
    weights = weights_of(num_classes=5)
    dropped = adapt(weights, with_classes(weights, 7), head="drop")
    assert dropped.params["head"]["kernel"].shape == (16, 7)
    assert not dropped.params["head"]["bias"].any()
    assert dropped.params["head"]["kernel"].std() == pytest.approx(
        0.02, rel=0.3
    )  # the standard deviation of the initialisation
    for name, value in body(weights).items():
        np.testing.assert_array_equal(body(dropped)[name], value)
    assert "head" not in adapt(weights, with_classes(weights, 0), head="drop").params
    again = adapt(weights, with_classes(weights, 5), head="drop")
    assert not np.array_equal(again.params["head"]["kernel"], weights.params["head"]["kernel"])


def test_remap_takes_imagenet_1k_from_22k_with_a_fresh_row_for_the_class_without_images():
    weights = weights_of(num_classes=21842)
    remapped = adapt(weights, with_classes(weights, 1000), head="remap")
    old, new = weights.params["head"], remapped.params["head"]
    kept = np.arange(1000) != UNTRAINED_22K
    np.testing.assert_array_equal(new["kernel"][:, kept], old["kernel"][:, :1000][:, kept])
    np.testing.assert_array_equal(new["bias"][kept], old["bias"][:1000][kept])
    assert UNTRAINED_22K == 850
    assert new["bias"][850] == 0
    assert (
        abs(new["kernel"][:, 850]).max() < 0.2
    )  # ten standard deviations of the initialisation; the values of the old row are about 1
    assert "row 850" in remapped.notes[-1]


def test_larger_windows_compute_the_same():
    images = np.random.default_rng(1).normal(size=(1, 40, 33, 3)).astype(np.float32)
    small = focalnet_jax.load_model(GOLDEN, **PLAIN)
    large = focalnet_jax.load_model(GOLDEN, focal_windows=(9, 7), **PLAIN)
    assert large.config.kernel_sizes(0) == (9, 11, 13)
    # Zeros around a kernel add nothing; only the order of summation differs.
    np.testing.assert_allclose(large(images), small(images), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="stage 0 has focal kernels of size 3 in the weights and 1 in the model"):
        focalnet_jax.load_model(GOLDEN, focal_windows=1, **PLAIN)


def test_added_levels_have_zero_gates_before_the_global_one():
    weights = weights_of(focal_levels=2)
    wanted = dataclasses.replace(weights.config, focal_levels=(2, 4))
    more = adapt(weights, wanted)
    np.testing.assert_array_equal(
        *(np.asarray(body(w)["stages/0/blocks/modulation/gates/kernel"]) for w in (weights, more))
    )
    old, new = (
        w.params["stages"][1 if 1 in w.params["stages"] else "1"]["blocks"]["modulation"] for w in (weights, more)
    )
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(new["gates"][name][..., :2], old["gates"][name][..., :2])
        np.testing.assert_array_equal(new["gates"][name][..., 4], old["gates"][name][..., 2])
        assert not new["gates"][name][..., 2:4].any()
    levels = named_leaves(new["focal_kernels"])
    assert [value.shape[1] for value in levels.values()] == [3, 5, 7, 9]
    assert all(value.any() for value in levels.values())
    assert "focal_levels changed from (2, 2) to (2, 4)" in more.notes


def test_without_a_global_level_added_gates_come_last():
    weights = weights_of(focal_levels=2, use_global_level=False)
    more = adapt(weights, dataclasses.replace(weights.config, focal_levels=3))
    old, new = (named_leaves(w.params)["stages/0/blocks/modulation/gates/kernel"] for w in (weights, more))
    np.testing.assert_array_equal(new[..., :2], old)
    assert not new[..., 2:].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(use_modulation=False), "use_modulation is True in the weights and False"),
        (dict(focal_levels=1), "2 focal levels in the weights and 1"),
        (dict(depths=(1, 1)), "depths is"),
        (dict(use_layerscale=True), "use_layerscale is False in the weights and True"),
        (dict(normalize_modulator=True), "normalize_modulator"),
        (dict(embed_dim=16), "embed_dim"),
    ],
)
def test_what_cannot_be_adapted_is_refused(options, message):
    weights = weights_of()
    with pytest.raises(UserError, match=message):
        adapt(weights, dataclasses.replace(weights.config, **options))


def test_a_checkpoint_starts_a_model_with_larger_windows(tmp_path):
    weights = weights_of()
    save_params(tmp_path, weights.params, {"model": model_metadata("focalnet_tiny_srf", weights.config)})
    wanted = dataclasses.replace(weights.config, focal_windows=5)
    loaded = load_into(str(tmp_path), wanted, on_one_device(wanted))
    assert str(tmp_path) in loaded.source
    expected = named_leaves(adapt(weights, wanted).params)
    for name, value in named_leaves(loaded.params).items():
        np.testing.assert_array_equal(value, expected[name])


def test_a_checkpoint_is_remapped_only_from_the_class_lists_order_and_its_fresh_row_follows_the_seed(tmp_path):
    weights = weights_of(num_classes=21842)
    wanted = with_classes(weights, 1000)
    synsets = [synset for synset, _ in class_list(21842)]

    def remapped(name, classes, seed=0):
        model = model_metadata("focalnet_tiny_srf", weights.config)
        if not (tmp_path / name).exists():
            save_params(tmp_path / name, weights.params, {"model": model, "classes": classes})
        loaded = load_into(str(tmp_path / name), wanted, on_one_device(wanted), head="remap", seed=seed)
        return np.asarray(loaded.params["head"]["kernel"])

    kernel = remapped("listed", synsets)
    kept = np.arange(1000) != UNTRAINED_22K
    np.testing.assert_array_equal(kernel[:, kept], weights.params["head"]["kernel"][:, :1000][:, kept])
    other = remapped("listed", synsets, seed=1)
    assert not np.array_equal(other[:, UNTRAINED_22K], kernel[:, UNTRAINED_22K])
    np.testing.assert_array_equal(other[:, kept], kernel[:, kept])
    with pytest.raises(UserError, match="needs ImageNet-22K's classes in the order of its class list"):
        remapped("by_name", sorted(synsets))
    words = class_names(21842)
    of_words = dataclasses.replace(weights, info=WeightsInfo(tuple(words)))
    assert adapt(of_words, wanted, head="remap").config.num_classes == 1000
    with pytest.raises(UserError, match="the first is 'thing 0'"):
        adapt(
            dataclasses.replace(weights, info=WeightsInfo(tuple(f"thing {n}" for n in range(21842)))),
            wanted,
            head="remap",
        )


def test_what_the_file_states_is_not_overruled_by_the_model_to_fill(tmp_path):
    weights = read_weights(GOLDEN, options=PLAIN)
    other = dataclasses.replace(weights.config, use_postln=True)
    # timm's names mean pre-norm; a model with post-norm blocks must not accept them
    with pytest.raises(UserError, match="use_postln is False in the weights and True in the model"):
        load_into(str(GOLDEN), other, param_shapes(other))


def test_a_model_reads_any_input_size():
    model = focalnet_jax.load_model(GOLDEN, **PLAIN)
    graph, params = nnx.split(model)
    for height, width in ((32, 32), (50, 70)):
        assert nnx.merge(graph, params)(np.zeros((1, height, width, 3), np.float32)).shape == (1, 5)


def test_the_message_about_models_of_other_depths_names_only_the_depths():
    weights = weights_of(depths=(1, 2))
    with pytest.raises(UserError, match=r"do not fit the model: depths is \(1, 2\) in the weights and \(2,\)"):
        adapt(weights, dataclasses.replace(weights.config, depths=(2,)), surgery=False)
