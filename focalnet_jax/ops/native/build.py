"""The kernels for CPUs, compiled on the machine they run on the first time it needs them, and kept."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

import jax

from focalnet_jax.ops import gelu

CHANNELS_OF_TASK = 16  # of a map: a line of the cache, whatever a register holds
NUMBERS_OF_TASK = 1 << 14  # where they, or rows of them, are taken by themselves
DEPTH_OF_PRODUCT = 384  # numbers that are added up at a time
ROWS_OF_SUM, COLUMNS_OF_SUM = 256, 512  # of a kernel's gradient, a block's
COLUMNS_OF_TILES = 32  # whole tiles of any processor's registers have so many columns
TASKS_OF_PRODUCT = 32  # at the least, where it has so many parts
_SIZES = (
    "CHANNELS_OF_TASK",
    "NUMBERS_OF_TASK",
    "DEPTH_OF_PRODUCT",
    "ROWS_OF_SUM",
    "COLUMNS_OF_SUM",
    "COLUMNS_OF_TILES",
    "TASKS_OF_PRODUCT",
)
_DIGEST = 32  # bytes of a SHA-256 at a library's end
HANDLERS = (
    "focal_levels",
    "focal_level_gradients",
    "gelu_with_bias",
    "gelu_gradients",
    "layer_norm",
    "layer_norm_gradients",
    "product",
    "product_of_turned",
    "turned_product",
)
_OPTIONS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")


@functools.cache
def register() -> str | None:
    """What the custom calls' names begin with, once XLA knows them; None where they cannot be compiled, see `why_not`.

    The name holds a hash of all that the code hangs on, as the library's file does: a program from JAX's compilation
    cache never calls other code than it was compiled for.
    """
    global _compile_error
    library = _library()
    if library is None:
        return None
    try:
        handlers = ctypes.CDLL(str(library))
    except OSError as error:  # a file system from which nothing is run
        _compile_error = str(error)
        return None
    for name in HANDLERS:
        jax.ffi.register_ffi_target(f"{library.stem}_{name}", jax.ffi.pycapsule(handlers[name]), platform="cpu")
    return library.stem


def why_not() -> str:
    """Why `register` returned None, in a few words."""
    if compiler() is not None:
        return _compile_error
    named = os.environ.get("CXX")
    return f"CXX={named} names no program" if named else "there is no C++ compiler (CXX, or c++)"


_compile_error = ""


def _library() -> Path | None:
    """The compiled library, made if it is not there."""
    found = compiler()
    if found is None:
        return None
    with resources.as_file(resources.files(__package__)) as folder:
        sources = sorted(path for path in folder.iterdir() if path.suffix in (".cc", ".h"))
        command = [*found, *_OPTIONS, *_definitions(), f"-I{jax.ffi.include_dir()}", str(folder / "handlers.cc")]
        told = [path.read_bytes() for path in sources]
        told += [" ".join([*command[:-2], jax.__version__, platform.machine(), _processor()]).encode()]
        name = "focalnet_" + hashlib.sha256(b"\0".join(told)).hexdigest()[:16]
        library = _folder() / f"{name}.so"
        return library if _is_whole(library) or _compile(command, library) else None


def _is_whole(library: Path) -> bool:
    """Whether it is as it was written: loading a part of one ends the process."""
    try:
        content = library.read_bytes()
    except OSError:
        return False
    return content[-_DIGEST:] == hashlib.sha256(content[:-_DIGEST]).digest()


def _compile(command: list[str], library: Path) -> bool:
    global _compile_error
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            part = Path(folder) / library.name
            done = subprocess.run([*command, "-o", str(part)], capture_output=True, text=True, timeout=300)
            if done.returncode == 0:
                with part.open("rb+") as file:  # what follows a library's end is nothing to who loads it
                    digest = hashlib.sha256(file.read()).digest()
                    file.write(digest)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, library)  # processes that compile at once each make a whole one
                return True
        said = next((line for line in done.stderr.splitlines() if "error" in line), f"exit code {done.returncode}")
        _compile_error = f"{command[0]} failed: {said}"
    except (OSError, subprocess.SubprocessError) as error:
        _compile_error = str(error)
    return False


def compiler() -> list[str] | None:
    """The command of the C++ compiler it is made with: `CXX`, such as "ccache g++", or c++."""
    try:
        program, *options = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    except ValueError:  # a quote that nothing closes
        return None
    found = shutil.which(program)
    return [found, *options] if found else None


def _definitions() -> list[str]:
    """GELU's coefficients, and how much is a task."""
    lists = {"GELU_NUMERATOR": gelu.NUMERATOR, "GELU_DENOMINATOR": gelu.DENOMINATOR, "GELU_LARGEST": (gelu.LARGEST,)}
    coefficients = [f"-D{name}=" + ",".join(f"{float(value)!r}f" for value in lists[name]) for name in lists]
    return [*coefficients, *(f"-D{name}={globals()[name]}" for name in _SIZES)]


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "focalnet_jax"


def _processor() -> str:
    """What this processor computes with: a home folder may be that of many machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
