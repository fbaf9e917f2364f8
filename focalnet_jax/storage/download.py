"""Downloads an object of a bucket to a local file: resumes at the last byte, and verifies the content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from focalnet_jax.errors import UserError
from focalnet_jax.storage.address import AnyPath
from focalnet_jax.storage.files import StoredObject, crc32c, read_range

BLOCK = 1 << 25  # bytes per request; a killed download loses less than this


def download(
    source: AnyPath,
    stored: StoredObject,
    to: Path,
    part: Path,
    *,
    sha256: str = "",
    arrived: Callable[[int], None] = lambda size: None,
) -> None:
    """Downloads an object to the file `to`, which appears only when it is complete and verified.

    The modification time of the file is the time at which the object was written, so that copies are equal.

    Args:
      source: address of the object.
      stored: properties of the object.
      to: the file, on the same file system as `part`.
      part: file with the first bytes of the object, to which the rest is appended; a missing file is created.
      sha256: expected SHA-256; by default the content is compared with the checksum that the bucket stores.
      arrived: function that is called after each block is written, with the number of bytes of the block.

    Raises:
      UserError: the content is not the expected one, also after a second download.
      FileNotFoundError: the object does not exist.
      StorageError: the bucket cannot be read.
      OSError: the file cannot be written.
    """
    for _ in range(2):
        _append_rest(source, stored, part, arrived)
        if is_intact(part, stored, sha256):
            to.parent.mkdir(parents=True, exist_ok=True)
            os.utime(part, ns=(stored.generation * 1000,) * 2)
            part.replace(to)
            return
        part.unlink()
    expected = "the SHA-256 of its data set's card" if sha256 else "the checksum of the bucket"
    raise UserError(
        f"{source} is damaged: its content does not match {expected}, also after a second download; upload it again, "
        "or delete it with the rest of its data set and prepare the data again"
    )


def is_intact(path: Path, stored: StoredObject, sha256: str = "") -> bool:
    """Returns whether a file has the size and the checksum of an object; `sha256` replaces the bucket's checksum."""
    if path.stat().st_size != stored.size:
        return False
    if sha256:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    return not stored.crc32c or crc32c(path) == stored.crc32c


def _append_rest(source: AnyPath, stored: StoredObject, part: Path, arrived: Callable[[int], None]) -> None:
    with part.open("ab") as file:
        if file.tell() > stored.size:
            file.seek(0)
            file.truncate()
        while (start := file.tell()) < stored.size:
            block = read_range(source, start, min(start + BLOCK, stored.size))
            file.write(block)
            file.flush()
            arrived(len(block))
        os.fsync(file.fileno())
