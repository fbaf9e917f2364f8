"""Reads the files of a zip archive in place."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from focalnet_jax.data.decode import MAX_BYTES, UnreadableImageError
from focalnet_jax.errors import UserError


class Zip:
    """Context manager of an open zip archive.

    Attributes:
      members: descriptions of all files.

    Raises:
      UserError: the archive is truncated or damaged, or cannot be read.
    """

    def __init__(self, path: Path):
        self._path = path
        with self._explained():
            self._archive = zipfile.ZipFile(path)
        self.members = [member for member in self._archive.infolist() if not member.is_dir()]

    def __enter__(self) -> Zip:
        return self

    def __exit__(self, *error: Any) -> None:
        self._archive.close()

    def read(self, name: str) -> bytes:
        """Returns the content of a file, whose checksum is verified.

        Raises:
          UnreadableImageError: the file is too large for an image.
          UserError: the archive is damaged or encrypted, or cannot be read.
        """
        if self._archive.getinfo(name).file_size > MAX_BYTES:
            raise UnreadableImageError(f"it has more than {MAX_BYTES:,} bytes")
        with self._explained():
            return self._archive.read(name)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Context manager that raises `UserError` for exceptions of `zipfile`."""
        try:
            yield
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"{self._path} is truncated, damaged or not a zip archive ({reason}): download it again"
            ) from error
        except OSError as error:
            raise UserError(f"cannot read {self._path}: {error.strerror or error}") from error
