"""Prints hashes of the lowered train and eval steps: python -m benchmarks.programs > before.txt.

Run it before and after a change of the code, and compare the files: equal lines mean equal programs. Lowers the train
and the eval step of recipes for one device and for 8 virtual devices (data, fsdp and tensor 2 each): unchanged, with an
average of the weights, with frozen parameters, and with statistics. Prints one line per program with the SHA-256 of its
StableHLO without the module's name, and without the hash of the C++ library in the names of kernels: a change of the
library's sources alone, such as of a comment, does not change the lines.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/programs.py

from benchmarks.flags import make_parser
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.programs.run_command import run_command

FLAG = "--xla_force_host_platform_device_count=8"
RECIPES = (
    "configs/quickstart.py",
    "configs/imagenet1k.py:tiny_srf",
    "configs/imagenet22k.py:large_fl4",
    "configs/finetune_imagenet1k.py:large_fl3,384",
)
MESHES = {1: [], 8: ["--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2"]}
NAMES = re.compile(r"(module) @\S+|(?<=@focalnet_)[0-9a-f]{16}(?=_)")
OPTIONS = {
    "plain": [],
    "average": ["--config.ema_decay=0.99"],
    "frozen": ["--config.optimizer.learning_rate_scales=(('^patch_embed/',0),)"],
    "statistics": ["--config.log_statistics=True"],
}


def main(arguments: list[str]) -> int:
    """Prints a line for each program."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--recipe", action="append", metavar="FILE.py[:VARIANT]", help="recipes to hash (default: four of them)"
    )
    flags = parser.parse_args(arguments)

    import jax

    from focalnet_jax.aot.compilation import lower_step
    from focalnet_jax.distributed.mesh import run_mesh
    from focalnet_jax.training.resolve import resolve

    for recipe in flags.recipe or RECIPES:
        for devices, sizes in MESHES.items():
            for name, changes in OPTIONS.items():
                config = load_config(recipe, [*sizes, *changes], optional=["data.path", "init_from"])
                mesh = run_mesh(config.mesh.to_dict(), jax.devices()[:devices])
                config = resolve(config, mesh)
                for step in ("train", "eval"):
                    text = NAMES.sub(r"\1", lower_step(config, mesh, step).as_text())
                    digest = hashlib.sha256(text.encode()).hexdigest()
                    print(f"{digest} {recipe} devices={devices} {name} {step}", flush=True)
    return 0


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}"
    run_command(main)
