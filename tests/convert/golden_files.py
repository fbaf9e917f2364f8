"""The golden files of parity.golden, and the options that are needed to read them."""

import json
from pathlib import Path

from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.write import write_weights

GOLDEN = Path(__file__).parent / "golden"
INDEX = "model.safetensors.index.json"
# Options that shapes do not determine; for these small models, no name of a variant determines them either.
OPTIONS = {
    "timm_lrf": dict(use_postln=False, normalize_modulator=False),
    "timm_fl4": dict(use_postln=True, normalize_modulator=True),
    "huggingface_srf": dict(use_postln=False, normalize_modulator=False),
    "huggingface_huge": dict(use_postln=True, normalize_modulator=False),
}


def in_a_directory(folder, **config):
    """Writes a Hugging Face directory with the golden weights and a changed config.json."""
    weights = read_weights(GOLDEN / "huggingface_srf.safetensors", options=OPTIONS["huggingface_srf"])
    write_weights(weights, folder, format="huggingface")
    stated = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(stated))
    return folder
