"""The released variants have the published parameters and MACs."""

import jax.numpy as jnp
import pytest
from flax import nnx

import focalnet_jax
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNet, FocalNetConfig, list_models, summarize, variant_config
from focalnet_jax.model.precision import get_precision
from focalnet_jax.model.variants import REMATS
from focalnet_jax.ops.stack import REMAT_POLICIES

# name: (parameters with 1000 and with 21842 classes, GMACs at 224 px), from the original's README and timm.
PUBLISHED = {
    "tiny_srf": (28_427_116, None, 4.40),
    "tiny_lrf": (28_647_928, None, 4.47),
    "small_srf": (49_891_216, None, 8.60),
    "small_lrf": (50_342_440, None, 8.72),
    "base_srf": (88_148_144, None, 15.24),
    "base_lrf": (88_749_768, None, 15.40),
    "tiny_iso": (5_880_280, None, 1.11),
    "small_iso": (22_376_344, None, 4.30),
    "base_iso": (87_255_832, None, 16.92),
    "large_fl3": (207_100_744, 239_134_898, 35.69),
    "large_fl4": (207_281_248, 239_315_402, 35.73),
    "xlarge_fl3": (366_082_120, 408_787_378, 63.07),
    "xlarge_fl4": (366_322_784, 409_028_042, 63.14),
    "huge_fl3": (686_564_424, 745_276_338, 118.06),
    "huge_fl4": (689_277_664, None, 118.76),
}
GMACS_AT_384 = {"large_fl3": 104.87, "large_fl4": 105.01, "xlarge_fl3": 185.4, "xlarge_fl4": 185.5}


def test_all_15_released_variants_are_listed():
    assert sorted(focalnet_jax.list_models()) == sorted(f"focalnet_{name}" for name in PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_exactly_and_macs_within_a_percent_the_published_ones(name):
    params, params_22k, gmacs = PUBLISHED[name]
    summary = summarize(variant_config(f"focalnet_{name}"))
    assert summary.params == params
    assert summary.macs == pytest.approx(gmacs * 1e9, rel=0.01)
    if params_22k is not None:
        assert summarize(variant_config(f"focalnet_{name}", num_classes=21842)).params == params_22k


@pytest.mark.parametrize(("name", "gmacs"), GMACS_AT_384.items())
def test_macs_at_384_are_within_a_percent_of_the_published_ones(name, gmacs):
    assert summarize(variant_config(f"focalnet_{name}"), 384).macs == pytest.approx(gmacs * 1e9, rel=0.01)


def test_summary_has_a_row_for_every_stage_and_adds_up():
    summary = summarize("focalnet_tiny_srf")
    stages = [row for row in summary.rows if row.name.startswith("stage")]
    assert [row.shape for row in stages] == [(56, 56, 96), (28, 28, 192), (14, 14, 384), (7, 7, 768)]
    assert f"{sum(row.params for row in summary.rows):,}" in str(summary)


@pytest.mark.parametrize("name", list_models())
def test_the_shapes_of_a_summary_are_those_of_the_features(name):
    config = variant_config(name, scan_blocks=True)
    model = nnx.eval_shape(lambda: FocalNet(config, precision=get_precision("float32"), rngs=nnx.Rngs(0)))
    maps = nnx.eval_shape(lambda model, x: model.features(x), model, jnp.zeros((1, 101, 75, 3)))
    stages = [row.shape for row in summarize(model, (101, 75)).rows if row.name.startswith("stage")]
    assert stages == [each.shape[1:] for each in maps]


def test_depths_given_as_a_list_are_those_of_a_tuple():
    config = FocalNetConfig(depths=[1, 2])
    assert (config, hash(config)) == (FocalNetConfig(depths=(1, 2)), hash(FocalNetConfig(depths=(1, 2))))


def test_every_option_of_a_stage_can_be_given_by_stage():
    config = variant_config(
        "focalnet_tiny_srf",
        depths=(1, 2),
        embed_dim=(8, 24),
        focal_levels=(2, 3),
        focal_windows=(5, 3),
        focal_factor=(4, 2),
    )
    assert config.dims == (8, 24)
    assert [config.kernel_sizes(stage) for stage in range(2)] == [(5, 9), (3, 5, 7)]
    assert [row.shape for row in summarize(config, 32).rows if "stage" in row.name] == [(8, 8, 8), (4, 4, 24)]


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("focalnet_tiny_lfr", {}, "focalnet_tiny_lrf"),
        ("focalnet_tiny_lrf", {"focal_level": 3}, "focal_levels"),
        ("focalnet_tiny_lrf", {"depths": 3}, "tuple of integers"),
        ("focalnet_tiny_lrf", {"depths": ()}, "depth"),
        ("focalnet_tiny_lrf", {"embed_dim": "96"}, "integer"),
        ("focalnet_tiny_lrf", {"use_postln": 1}, "True or False"),
        ("focalnet_tiny_lrf", {"focal_windows": 4}, "odd"),
        ("focalnet_tiny_lrf", {"focal_factor": 3}, "odd"),
        ("focalnet_tiny_lrf", {"focal_levels": (3, 3)}, "4 stages"),
        ("focalnet_tiny_lrf", {"drop_path_rate": 1.0}, "[0, 1)"),
        ("focalnet_tiny_lrf", {"num_classes": -1}, "num_classes"),
        ("focalnet_tiny_lrf", {"remat": "ful"}, "full"),
        ("focalnet_tiny_lrf", {"dtype": "float16"}, "bfloat16"),
        ("focalnet_tiny_lrf", {"dtype": None}, "bfloat16"),
        ("focalnet_large_fl4", {"patch_size": 16}, "stride of use_conv_embed"),
        ("focalnet_tiny_lrf", {"mlp_ratio": float("inf")}, "positive ratio"),
        ("focalnet_tiny_lrf", {"mlp_ratio": 1e9}, "expected at most 1048576"),
        ("focalnet_tiny_lrf", {"embed_dim": 10**7}, "80000000 channels"),
        (5, {}, "unknown model 5"),
    ],
)
def test_a_mistaken_option_is_refused_with_what_was_expected(name, overrides, message):
    with pytest.raises(UserError, match=r".*") as caught:
        focalnet_jax.create_model(name, **overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_valid_remat_policies_are_those_of_blocks():
    assert set(REMATS) == {"auto", *REMAT_POLICIES}
    with pytest.raises(UserError, match=r"unknown remat policy 'ful'; .* Did you mean 'full'"):
        variant_config("focalnet_tiny_srf", remat="ful")
