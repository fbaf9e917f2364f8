"""Local copies of weights files in buckets, for the readers of files and directories."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from focalnet_jax.errors import UserError
from focalnet_jax.storage.address import AnyPath, to_path
from focalnet_jax.storage.files import answering, check_bucket, is_file, requests, sizes

_BLOCK = 1 << 24  # bytes read at a time


def local_copy(path: AnyPath) -> Path:
    """Returns a local copy of a file or folder in a bucket; the copy is deleted when the process ends.

    Raises:
      UserError: there is nothing at `path`, or no permission to read it.
      RunFailedError: the bucket does not answer.
    """
    return _copied(str(path))


@functools.cache
def _copied(address: str) -> Path:
    path = to_path(address)
    folder = Path(tempfile.mkdtemp(prefix="focalnet-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with answering(path):
        if is_file(path):
            _copy(path, folder / path.name)
            return folder / path.name
        names = sizes(path)
        if not names:
            check_bucket(path)
            raise UserError(f"there is nothing at {path}; expected a run, a checkpoint or weights")
        for name in names:
            _copy(path / name, folder / path.name / name)
    return folder / path.name


def _copy(path: AnyPath, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    with requests(path), path.open("rb") as source, to.open("wb") as target:
        while block := source.read(_BLOCK):
            target.write(block)
