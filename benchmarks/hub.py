"""Measures the memory of a download from the Hugging Face Hub: python -m benchmarks.hub [--megabytes 350].

A second process serves the hub on loopback. Prints one JSON line: size of the file, seconds, and growth of this
process's peak memory (MB). Exit code 1 if the memory grew by more than --most.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/hub.py

from benchmarks.flags import make_parser
from focalnet_jax.hub.download import fetch, local_path
from focalnet_jax.programs.flags import check_number
from focalnet_jax.programs.run_command import run_command


def main(arguments: list[str]) -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--megabytes", type=int, default=350, help="size of the file (default: %(default)s)")
    parser.add_argument("--most", type=int, default=200, help="largest growth in MB (default: %(default)s)")
    flags = parser.parse_args(arguments)
    check_number("--megabytes", flags.megabytes, 1)
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "served" / "me" / "focal"
        repository.mkdir(parents=True)
        with (repository / "model.safetensors").open("wb") as file:
            for _ in range(flags.megabytes):
                file.write(os.urandom(10**6))
        command = [sys.executable, "-m", "tests.hub.server", str(repository.parent.parent)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            os.environ["HF_ENDPOINT"] = server.stdout.readline().strip().partition("=")[2]
            os.environ |= {"HF_HOME": str(Path(folder) / "home"), "HF_HUB_DISABLE_XET": "1"}
            grown, seconds = download()
        finally:
            server.kill()
            server.wait()
    print(json.dumps({"megabytes": flags.megabytes, "seconds": round(seconds, 2), "grown_mb": round(grown, 1)}))
    return int(grown > flags.most)


def download() -> tuple[float, float]:
    """Returns the growth of the peak memory in MB, and the seconds of the download."""
    import huggingface_hub

    huggingface_hub.HfApi()  # imports its modules before the measurement
    before, begun = peak_mb(), time.perf_counter()
    fetch.cache_clear()
    local_path("hf://me/focal")
    return peak_mb() - before, time.perf_counter() - begun


def peak_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    run_command(main)
