"""Cache of compiled programs for the next start."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import jax


def keep_compiled(folder: str) -> None:
    """Makes JAX cache compiled programs in a folder of this machine, unless JAX is configured with another folder."""
    if not folder or jax.config.jax_compilation_cache_dir:
        return
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        print(
            f"warning: compilation_cache={folder}: {error.strerror}; compiled programs are not stored", file=sys.stderr
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
