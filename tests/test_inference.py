"""Classifiers are what a user says they are, and name each class by a name of its own."""

import numpy as np
import pytest
from PIL import Image

from focalnet_jax import predict
from focalnet_jax.demo import __main__ as demo
from focalnet_jax.errors import UserError
from focalnet_jax.inference import load_classifier
from focalnet_jax.visualize import __main__ as visualize
from tests.convert.golden_files import GOLDEN, OPTIONS

UNTOLD = GOLDEN / "timm_lrf.safetensors"  # nothing in it tells normalize_modulator


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (predict.main, ["x.png", "--image-size"]),
        (demo.main, ["--image-size"]),
        (visualize.main, ["--images", "x.png", "--out", "out", "--size"]),
    ],
)
@pytest.mark.parametrize("size", ["0", "100000000"])
def test_pictures_of_a_size_that_cannot_be_are_refused_before_anything_is_read(main, arguments, size):
    with pytest.raises(UserError, match=f"size {size}: expected 1 to 4096"):
        main([*arguments, size, "--checkpoint", "nowhere"])


def test_what_weights_do_not_tell_is_asked_for_and_taken(tmp_path, capsys):
    with pytest.raises(UserError, match=r"give normalize_modulator=true or false \(with --option"):
        load_classifier(UNTOLD)
    assert load_classifier(UNTOLD, options={"normalize_modulator": True}).model.config.normalize_modulator
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    arguments = [str(tmp_path / "red.png"), "--checkpoint", str(UNTOLD), "--image-size", "64"]
    assert predict.main([*arguments, "--option", "normalize_modulator=false"]) == 0
    best = load_classifier(UNTOLD, image_size=64, options=OPTIONS["timm_lrf"]).predict(
        [np.uint8([[[255, 0, 0]]]).repeat(64, 0).repeat(64, 1)]
    )[0]
    assert capsys.readouterr().out.startswith(f"{arguments[0]}: {best[0][0]} {best[0][1]:.1%}, ")
