"""What is uploaded to a hub is what timm and transformers download from it, and what they upload is read here."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from focalnet_jax.convert.mapping import param_shapes
from focalnet_jax.convert.weights import Weights, read_weights
from focalnet_jax.convert.write import write_weights
from focalnet_jax.model import variant_config
from focalnet_jax.parameters import named_leaves, with_leaves
from tests.commands import run
from tests.hub.handler import TOKEN
from tests.hub.server import serving

NAME = "focalnet_tiny_srf"
# Its output is a list: logits of an image of ones.
PROGRAMS = {
    "timm": f"""
import json, timm, torch
model = timm.create_model("hf_hub:tester/{NAME}", pretrained=True).eval()
assert model.pretrained_cfg["architecture"] == "{NAME}"
with torch.no_grad():
    print(json.dumps(model(torch.ones(1, 3, 64, 64))[0, :20].tolist()))
""",
    "huggingface": f"""
import json, torch, transformers
model = transformers.AutoModelForImageClassification.from_pretrained("tester/{NAME}").eval()
with torch.no_grad():
    print(json.dumps(model(torch.ones(1, 3, 64, 64)).logits[0, :20].tolist()))
""",
}
OURS = f"""
import json, jax, focalnet_jax
model = focalnet_jax.load_model("hf://tester/{NAME}")
print(json.dumps(model(jax.numpy.ones((1, 64, 64, 3)))[0, :20].tolist()))
"""


@pytest.fixture
def source(tmp_path):
    """A file with random weights of a variant."""
    config, rng = variant_config(NAME), np.random.default_rng(0)
    shapes = param_shapes(config)
    leaves = {name: np.float32(rng.standard_normal(leaf.shape) * 0.1) for name, leaf in named_leaves(shapes).items()}
    weights = Weights(with_leaves(shapes, leaves), config, NAME, "orbax", "float32", ())
    write_weights(weights, tmp_path / "source.safetensors", format="microsoft")
    assert read_weights(tmp_path / "source.safetensors").name == NAME
    return tmp_path / "source.safetensors"


@pytest.mark.parametrize("format", PROGRAMS)
def test_what_is_uploaded_gives_the_same_logits_in_the_library_of_its_format(format, source, tmp_path):
    with serving() as hub:
        env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        env |= {"HF_TOKEN": TOKEN, "JAX_PLATFORMS": "cpu"}
        address = f"hf://tester/{NAME}"
        sent = run("-m", "focalnet_jax.convert", source, address, "--to", format, "--upload", env=env)
        assert sent.returncode == 0, sent.stderr
        logits = []
        for program in (PROGRAMS[format], OURS):
            done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            logits.append(np.array(json.loads(done.stdout.splitlines()[-1])))
    # docs/parity.md measures 1e-5 of the largest logit between the code bases in float32
    assert np.abs(logits[0] - logits[1]).max() <= 1e-4 * np.abs(logits[0]).max()
