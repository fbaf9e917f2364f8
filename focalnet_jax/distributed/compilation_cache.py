"""Stores compiled programs on disk, so that the next run starts faster."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import jax


def keep_compiled(folder: str) -> None:
    """Makes JAX cache compiled programs in a folder of this machine, unless JAX is configured with another folder.

    Nothing is cached if `folder` is empty or, with a warning, if the folder cannot be written.
    """
    if not folder or jax.config.jax_compilation_cache_dir:
        return
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        print(
            f"warning: cannot write to compilation_cache={folder} ({error.strerror}): compiled programs are not cached",
            file=sys.stderr,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
