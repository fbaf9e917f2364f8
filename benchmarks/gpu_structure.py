"""Inspects a train step compiled for an NVIDIA GPU, on a machine without a GPU.

  python -m benchmarks.gpu_structure [--model base_lrf] [--batch 64] [--topology h100:1] [--config.KEY=VALUE ...]

Prints the libraries that the program calls (cuDNN, cuBLAS, Triton), the registers and spilled bytes of its Triton
kernels, and its memory. The last line is one JSON object. XLA does not autotune here, so it may choose other kernels on
a real device, and no times are estimated.

Needs jax-cuda12-plugin and jax-cuda12-pjrt of jax's version (pip install --no-deps) and, for registers, ptxas:
pip install --no-deps 'nvidia-cuda-nvcc-cu12<13'.
"""

from __future__ import annotations

import collections
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/gpu_structure.py

from benchmarks.flags import check_overrides, images, load_recipe, make_parser
from focalnet_jax.errors import UserError
from focalnet_jax.programs.run_command import run_command

_ARCHITECTURES = {"h100": "sm_90a", "a100": "sm_80"}  # names in ptxas


def compiled_step(config: Any, topology: str, dump: Path) -> Any:
    """Returns the compiled train step. The compiler writes its kernels to the folder `dump`."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={dump}"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    jax.config.update("jax_platforms", "cpu")  # no other devices are needed
    from focalnet_jax.aot.compilation import compile_fitting, lower_step
    from focalnet_jax.aot.topology import describe_devices
    from focalnet_jax.distributed.mesh import make_mesh

    devices, _ = describe_devices(topology)
    return compile_fitting(lower_step(config, make_mesh(config.mesh, devices), "train"))


def find_ptxas() -> str | None:
    """Returns the path of ptxas, NVIDIA's assembler, from its Python package or else from PATH."""
    packaged = [path for folder in sys.path for path in Path(folder).glob("nvidia/cuda_nvcc/bin/ptxas")]
    return str(packaged[0]) if packaged else shutil.which("ptxas")


def kernels(dump: Path, ptxas: str, architecture: str) -> dict[str, dict[str, int]]:
    """Returns the registers and spilled bytes per thread of this package's kernels."""
    found = {}
    for path in sorted(dump.glob("*.ptx")):
        done = subprocess.run(
            [ptxas, "-v", f"-arch={architecture}", path, "-o", "/dev/null"], capture_output=True, text=True, check=True
        )
        for name, rest in re.findall(r"entry function '(\w+)'(.*?registers)", done.stderr, re.DOTALL):
            if name.startswith("focal_"):
                spilled = sum(map(int, re.findall(r"(\d+) bytes spill", rest)))
                found[name] = {"registers": int(re.search(r"Used (\d+)", rest)[1]), "spilled_bytes": spilled}
    return found


def main(arguments: list[str]) -> int:
    """Compiles and prints."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="base_lrf")
    parser.add_argument("--batch", type=images, default=64)
    parser.add_argument("--topology", default="h100:1")
    flags, overrides = parser.parse_known_args(arguments)
    check_overrides(overrides, batch_size="--batch sets the images per step")
    gpu = flags.topology.partition(":")[0]
    if gpu not in _ARCHITECTURES:
        raise UserError(
            f"--topology {flags.topology}: expected {' or '.join(_ARCHITECTURES)} and their number, such as h100:1"
        )
    config = load_recipe(flags.model, [f"--config.batch_size={flags.batch}", *overrides])
    with tempfile.TemporaryDirectory() as folder:
        step = compiled_step(config, flags.topology, Path(folder))
        ptxas = find_ptxas()
        ours = kernels(Path(folder), ptxas, _ARCHITECTURES[gpu]) if ptxas else {}
    targets = collections.Counter(re.findall(r'custom_call_target="([^"]+)"', step.as_text()))
    memory = step.memory_analysis()
    result = {
        "model": flags.model,
        "batch": flags.batch,
        "topology": flags.topology,
        "fusions": len(re.findall(r" fusion\(", step.as_text())),
        "custom_calls": dict(targets.most_common()),
        "kernels": ours,
        "temp_bytes": memory.temp_size_in_bytes,
    }
    for name, count in targets.most_common():
        print(f"{count:>5}  {name}")
    for name, found in ours.items():
        print(f"{name:<40} {found['registers']:>3} registers, {found['spilled_bytes']} bytes spilled")
    print(f"temporaries {memory.temp_size_in_bytes / 1e9:.2f} GB")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    run_command(main)
