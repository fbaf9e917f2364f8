"""Compiles the C++ kernels on the machine on which they run, and caches the library."""

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

CHANNELS_OF_TASK = 16  # channels of a map per task: a cache line, independent of the register size
NUMBERS_OF_TASK = 1 << 14  # elements per task of pointwise operations
DEPTH_OF_PRODUCT = 384  # products that are added up at a time
ROWS_OF_SUM, COLUMNS_OF_SUM = 256, 512  # block of the gradient of a linear layer's kernel
COLUMNS_OF_TILES = 32  # a multiple of the tile width on every processor
TASKS_OF_PRODUCT = 32  # least number of tasks of a product, unless the product is too small
_SIZES = (
    "CHANNELS_OF_TASK",
    "NUMBERS_OF_TASK",
    "DEPTH_OF_PRODUCT",
    "ROWS_OF_SUM",
    "COLUMNS_OF_SUM",
    "COLUMNS_OF_TILES",
    "TASKS_OF_PRODUCT",
)
_DIGEST = 32  # bytes of the SHA-256 at the end of a library's file
HANDLERS = (
    "focal_levels",
    "focal_level_gradients",
    "gelu_with_bias",
    "gelu_gradients",
    "layer_norm",
    "layer_norm_gradients",
    "product",
    "product_of_transposed",
    "transposed_product",
)
_OPTIONS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")


@functools.cache
def register() -> str | None:
    """Registers the kernels with XLA and returns the prefix of their names.

    Returns None if the kernels cannot be compiled or loaded; `why_not` returns the reason. The prefix and the library's
    file name contain a hash of everything that the code depends on. A program from JAX's compilation cache therefore
    never calls different code than it was compiled for.
    """
    global _compile_error
    library = _library()
    if library is None:
        return None
    try:
        handlers = ctypes.CDLL(str(library))
    except OSError as error:  # for example, the file system is mounted with noexec
        _compile_error = str(error)
        return None
    for name in HANDLERS:
        jax.ffi.register_ffi_target(f"{library.stem}_{name}", jax.ffi.pycapsule(handlers[name]), platform="cpu")
    return library.stem


def why_not() -> str:
    """Returns the reason why `register` returned None, in a few words."""
    if compiler() is not None:
        return _compile_error
    named = os.environ.get("CXX")
    return f"CXX={named} is not a program" if named else "there is no C++ compiler (CXX, or c++)"


_compile_error = ""


def _library() -> Path | None:
    """Returns the compiled library, which is compiled if it is missing, or None if it cannot be compiled."""
    found = compiler()
    if found is None:
        return None
    with resources.as_file(resources.files(__package__)) as folder:
        sources = sorted(path for path in folder.iterdir() if path.suffix in (".cc", ".h"))
        command = [*found, *_OPTIONS, *_definitions(), f"-I{jax.ffi.include_dir()}", str(folder / "handlers.cc")]
        hashed = [path.read_bytes() for path in sources]
        hashed += [" ".join([*command[:-2], jax.__version__, platform.machine(), _processor()]).encode()]
        name = "focalnet_" + hashlib.sha256(b"\0".join(hashed)).hexdigest()[:16]
        library = _folder() / f"{name}.so"
        return library if _is_whole(library) or _compile(command, library) else None


def _is_whole(library: Path) -> bool:
    """Returns whether the file is complete; loading a truncated library would crash the process."""
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
                with part.open("rb+") as file:  # the loader ignores bytes after a library's end
                    digest = hashlib.sha256(file.read()).digest()
                    file.write(digest)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, library)  # concurrent processes each write a complete library
                return True
        reason = next((line for line in done.stderr.splitlines() if "error" in line), f"exit code {done.returncode}")
        _compile_error = f"{command[0]} failed: {reason}"
    except (OSError, subprocess.SubprocessError) as error:
        _compile_error = str(error)
    return False


def compiler() -> list[str] | None:
    """Returns the command of the C++ compiler, or None if the compiler is missing.

    The command is `CXX` in the environment, such as "ccache g++", or else c++.
    """
    try:
        program, *options = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    except ValueError:  # an unclosed quote
        return None
    found = shutil.which(program)
    return [found, *options] if found else None


def _definitions() -> list[str]:
    """Returns compiler flags that define GELU's coefficients and the sizes in `_SIZES`."""
    lists = {"GELU_NUMERATOR": gelu.NUMERATOR, "GELU_DENOMINATOR": gelu.DENOMINATOR, "GELU_LARGEST": (gelu.LARGEST,)}
    coefficients = [f"-D{name}=" + ",".join(f"{float(value)!r}f" for value in lists[name]) for name in lists]
    return [*coefficients, *(f"-D{name}={globals()[name]}" for name in _SIZES)]


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "focalnet_jax"


def _processor() -> str:
    """Returns the processor's instruction sets, which are hashed because different processors may share the cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
