"""The golden files and what reading them takes."""

import json
from pathlib import Path

from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.write import write_weights

GOLDEN = Path(__file__).parent / "golden"
INDEX = "model.safetensors.index.json"
# What shapes do not tell and no variant's name does for these small models.
OPTIONS = {
    "timm_lrf": dict(use_postln=False, normalize_modulator=False),
    "timm_fl4": dict(use_postln=True, normalize_modulator=True),
    "huggingface_srf": dict(use_postln=False, normalize_modulator=False),
    "huggingface_huge": dict(use_postln=True, normalize_modulator=False),
}


def in_a_directory(folder, **config):
    """A Hugging Face directory of the golden weights whose config.json states other things."""
    weights = read_weights(GOLDEN / "huggingface_srf.safetensors", options=OPTIONS["huggingface_srf"])
    write_weights(weights, folder, format="huggingface")
    stated = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(stated))
    return folder
