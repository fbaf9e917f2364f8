"""Checks that all processes of a run have the same versions, config, workdir and data.

Processes that differ could wait for each other forever.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

import jax
from ml_collections import FrozenConfigDict

import focalnet_jax
from focalnet_jax import __version__
from focalnet_jax.checkpoint.lock import LOCK
from focalnet_jax.config import flatten
from focalnet_jax.data.source import Source, describe_source
from focalnet_jax.distributed.host_values import anywhere, check_same
from focalnet_jax.storage.address import AnyPath
from focalnet_jax.storage.files import exists, read_text

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_SOURCES = ("*.py", "*.cc", "*.h")
_SEEN_SECONDS = 10.0  # time that a network file system may need to show a file created on another machine


def versions() -> dict[str, str]:
    """Returns the versions of focalnet_jax, Python and the packages in `_PACKAGES`, by name."""
    ours = {"focalnet_jax": __version__, "python": platform.python_version()}
    return ours | {name: version(name) for name in _PACKAGES}


def check_same_run(config: FrozenConfigDict) -> None:
    """Raises `UserError` if processes have different versions, source files or configs."""
    check_same(versions() | {"the source of focalnet_jax": _source()})
    check_same({key: json.dumps(value) for key, value in flatten(config).items()})


def _source() -> str:
    """Returns a digest of the package's source files, because two checkouts with the same version may differ."""
    digest = hashlib.sha256()
    package = Path(focalnet_jax.__file__).parent
    for path in sorted(path for pattern in _SOURCES for path in package.rglob(pattern)):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def check_same_workdir(workdir: AnyPath) -> None:
    """Raises `UserError` if a process does not see the directory that process 0 has locked."""
    anywhere(False)  # waits until process 0 has locked the workdir
    lock, deadline = workdir / LOCK, time.monotonic() + (_SEEN_SECONDS if jax.process_count() > 1 else 0)
    while not exists(lock) and time.monotonic() < deadline:
        time.sleep(0.1)
    holder = read_text(lock) if exists(lock) else "no run"
    check_same({"--workdir": f"a directory locked by {holder}"})


def check_same_data(*sources: Source) -> None:
    """Raises `UserError` if processes read different data."""
    for source in sources:
        check_same({"the data": describe_source(source)})
