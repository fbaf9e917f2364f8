"""UPerNet with the parts of L, XL and H is written only where it can be loaded again."""

import numpy as np
import pytest

from focalnet_jax.convert.read_upernet import read_upernet
from focalnet_jax.convert.upernet import all_variables
from focalnet_jax.convert.write_upernet import write_upernet
from focalnet_jax.errors import UserError
from focalnet_jax.parameters import named_leaves
from tests.convert.random_weights import upernet_of

PARTS = dict(use_conv_embed=True, use_layerscale=True)
L = PARTS | dict(use_postln=True, normalize_modulator=True)


def assert_same(path, weights, **options):
    found = read_upernet(path, **options)
    assert found.config == weights.config
    given, read = (named_leaves(all_variables(each)) for each in (weights, found))
    assert given.keys() == read.keys()
    for name, array in given.items():
        np.testing.assert_array_equal(read[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("format", "name", "message"),
    [
        (
            "mmseg",
            "a.safetensors",
            "has no use_postln, which this model has, so mmsegmentation could not load the file",
        ),
        ("huggingface", "a", "pads an overlapped patch embedding by 2 pixels"),
    ],
)
def test_formats_whose_code_lacks_a_part_say_what_to_use_instead(format, name, message, tmp_path):
    with pytest.raises(UserError, match=f"{message}.*use --to orbax, .* or --head drop --to microsoft") as raised:
        write_upernet(upernet_of(**L), tmp_path / name, format=format)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / name).exists()


def test_a_checkpoint_holds_every_part(tmp_path):
    weights = upernet_of(**L)
    write_upernet(weights, tmp_path / "step", format="orbax")
    assert_same(tmp_path / "step", weights)


def test_mmsegmentation_has_the_stem_and_the_scales_without_post_norm(tmp_path):
    weights = upernet_of(**PARTS)
    write_upernet(weights, tmp_path / "a.safetensors", format="mmseg")
    options = {"use_postln": False, "normalize_modulator": False}
    assert_same(tmp_path / "a.safetensors", weights, options=options)
