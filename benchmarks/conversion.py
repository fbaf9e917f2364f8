"""Measures conversions of full-size models through every format: python benchmarks/conversion.py [NAME ...].

Needs torch (`make parity` creates an environment with it: .venv-parity/bin/python). Random weights are converted from a
checkpoint to the original's .pth, to timm, to Hugging Face, back to a checkpoint and to timm again, each in a separate
process. The two timm files must be equal. Prints one row per variant, and one JSON line with seconds and peak memory
(GB) of each conversion.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/conversion.py

from benchmarks.flags import make_parser
from focalnet_jax.checkpoint.weights import save_params
from focalnet_jax.convert.files import sha256
from focalnet_jax.convert.mapping import param_shapes
from focalnet_jax.model import list_models, variant_config
from focalnet_jax.model.variants import model_metadata
from focalnet_jax.programs.run_command import run_command


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *list_models()])
    measured = {}
    for name in parser.parse_args(arguments).names or list_models():
        with tempfile.TemporaryDirectory() as folder:
            measured[name] = through_every_format(name, Path(folder))
        row = "  ".join(f"{step} {seconds:.0f} s {memory:.1f} GB" for step, (seconds, memory) in measured[name].items())
        print(f"{name:<22}{row}", flush=True)
    print(json.dumps(measured))


def make_checkpoint(name: str, folder: Path) -> None:
    config, rng = variant_config(name), np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), param_shapes(config))
    save_params(folder, params, {"model": model_metadata(name, config)})


def through_every_format(name: str, folder: Path) -> dict[str, tuple[float, float]]:
    # A separate process, because memory used in this one would count towards the peaks of the conversions.
    making = multiprocessing.get_context("spawn").Process(target=make_checkpoint, args=(name, folder / "checkpoint"))
    making.start()
    making.join()
    # timm has no isotropic models
    third = "timm" if variant_config(name).patch_size == 4 else "microsoft"
    steps = [
        ("checkpoint", "original.pth", "microsoft"),
        ("original.pth", "third.safetensors", third),
        ("third.safetensors", "huggingface", "huggingface"),
        ("huggingface", "back", "orbax"),
        ("back", "again.safetensors", third),
    ]
    measured = {}
    for source, destination, format in steps:
        start = time.perf_counter()
        command = [sys.executable, "-m", "focalnet_jax.convert", folder / source, folder / destination, "--to", format]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"error: {name}: {source} to {format} failed")
        measured[f"{Path(source).suffix or source} to {format}"] = (
            round(time.perf_counter() - start, 1),
            round(usage.ru_maxrss / 1e6, 2),
        )
    if sha256(folder / "third.safetensors") != sha256(folder / "again.safetensors"):
        sys.exit(f"error: the weights of {name} changed in a round trip through all formats; expected equal timm files")
    return measured


if __name__ == "__main__":
    run_command(main)
