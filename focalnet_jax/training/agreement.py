"""Processes that are to be one run must have been started with the same things: otherwise they wait for each other."""

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
from focalnet_jax.data.sources import Source, describe
from focalnet_jax.distributed.startup import anywhere, check_same

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_SEEN_SECONDS = 10.0  # after which a network file system shows what another machine has made


def versions() -> dict[str, str]:
    """What computes, by name."""
    ours = {"focalnet_jax": __version__, "python": platform.python_version()}
    return ours | {name: version(name) for name in _PACKAGES}


def check_same_run(config: FrozenConfigDict) -> None:
    """Refuses processes with other versions or another config: `UserError`."""
    check_same(versions() | {"the source of focalnet_jax": _source()})
    check_same({key: json.dumps(value) for key, value in flatten(config).items()})


def _source() -> str:
    """A digest of the package's own files: checkouts of one version may differ."""
    digest = hashlib.sha256()
    package = Path(focalnet_jax.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def check_same_workdir(workdir: Path) -> None:
    """Refuses processes that do not see the directory process 0 holds by now: `UserError`."""
    anywhere(False)  # until it does
    lock, deadline = workdir / LOCK, time.monotonic() + (_SEEN_SECONDS if jax.process_count() > 1 else 0)
    while not lock.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    told = lock.read_text() if lock.exists() else "another directory"
    check_same({"--workdir": f"a directory held by {told}"})


def check_same_data(*sources: Source) -> None:
    """Refuses processes that read other data: `UserError`."""
    for source in sources:
        check_same({"the data": describe(source)})
