"""Files that are whole, whatever happens while they are written, and where a command may write them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from focalnet_jax.errors import UserError


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file in the place of what is there: killed or on a full disk it leaves that as it was."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w" if isinstance(content, str) else "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, UnicodeError):  # a text that is none, such as half a character of a file name
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def write_result(path: Path, content: str | bytes) -> None:
    """As `write_whole`, what a command was asked for: `UserError` that names the file and says why it cannot be."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def check_result(path: Path, *, overwrite: bool | None = None) -> None:
    """Refuses, before the work is done, a file that is not to be written over or cannot be written.

    Args:
      path: what a command is asked to write.
      overwrite: whether it was told to write over what is there; None if it never does.

    Raises:
      UserError: says which of it, and what to do.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; expected the name of a file to write")
    if path.exists() and not overwrite:
        todo = "remove it or choose another name" if overwrite is None else "choose another --out or give --overwrite"
        raise UserError(f"{path} exists already; {todo}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it or choose another name")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path}: {path.parent} cannot be written to; choose another name")


def check_folder(path: Path, flag: str) -> None:
    """Refuses a folder to write to that cannot be one: `UserError`. It need not be there yet."""
    there = next(place for place in (path, *path.absolute().parents) if os.path.exists(place))
    if not there.is_dir():
        raise UserError(f"{flag} {path}: {there} is a file; expected a folder: choose another")
    if not os.access(there, os.W_OK):
        raise UserError(f"{flag} {path}: {there} cannot be written to; choose another")
