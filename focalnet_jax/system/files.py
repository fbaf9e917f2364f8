"""Writing files atomically, and checking in advance whether a command can write its results."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from focalnet_jax.errors import UserError

# An address such as `gs://BUCKET/NAME`; pathlib turns its two slashes into one.
ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]{1,20}):/+(?P<rest>.*)", re.IGNORECASE | re.DOTALL)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file atomically: a kill or a full disk leaves an existing file unchanged.

    Args:
      path: the file, in an existing folder.
      content: a string or bytes.

    Raises:
      OSError: the file cannot be written.
      UnicodeError: the string cannot be encoded, for example because it contains a file name that is not UTF-8.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w" if isinstance(content, str) else "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, UnicodeError):
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def write_result(path: Path, content: str | bytes) -> None:
    """Writes the result of a command atomically, like `write_whole`.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; choose another path") from error
    except UnicodeError as error:
        raise UserError(f"cannot write {path}: its text is not UTF-8 ({error})") from error


def check_result(path: Path, *, overwrite: bool | None = None) -> None:
    """Checks, before a command does its work, that it can write a file.

    Args:
      path: the file to write.
      overwrite: whether an existing file may be overwritten; None if the command has no flag for it.

    Raises:
      UserError: the file exists or cannot be written, or `path` is an address.
    """
    check_local(path, "this file is")
    if path.is_dir():
        raise UserError(f"{path} is a folder; expected the path of a file to write")
    if path.exists() and not overwrite:
        todo = "remove it or choose another name" if overwrite is None else "choose another --out or give --overwrite"
        raise UserError(f"{path} already exists; {todo}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; create it or choose another name")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path}: the folder {path.parent} is not writable; choose another name")


def check_local(path: str | os.PathLike[str], written: str) -> None:
    """Raises `UserError` if a path to write to is an address. `written` begins the message, as in "weights are"."""
    if match := ADDRESS.fullmatch(str(path)):
        raise UserError(
            f"{match['scheme']}://{match['rest'][:200]}: {written} written to a local path; write there, and copy it "
            "afterwards"
        )


def check_folder(path: Path, flag: str) -> None:
    """Raises `UserError` if a command cannot write to a folder, which may not exist yet. `flag` is for messages."""
    check_local(path, f"the files of {flag} are")
    there = next(each for each in (path, *path.absolute().parents) if os.path.exists(each))
    if not there.is_dir():
        raise UserError(f"{flag} {path}: {there} is a file; expected a folder: choose another")
    if not os.access(there, os.W_OK):
        raise UserError(f"{flag} {path}: {there} is not writable; choose another")


def check_not_sources(targets: Iterable[Path], sources: Iterable[Path]) -> None:
    """Raises `UserError` if a file to write is one of the files to read."""
    read = {path.resolve() for path in sources}
    for target in targets:
        if target.resolve() in read:
            raise UserError(f"{target} is a source and would be overwritten: choose another --out")


def output_file_names(paths: Sequence[Path], taken: Sequence[str] = ()) -> dict[Path, str]:
    """Returns the name of each source's output, without a suffix. Different files have different names.

    All names follow one rule: STEM, FILE, FOLDER_STEM or FOLDER_FILE. It is the first rule whose names are distinct and
    not in `taken`. If there is no such rule, names are stems, and a number is added to a stem that is already used, as
    in STEM-2.
    """
    files = {path: os.path.abspath(path) for path in paths}  # a file may be given as x.png and as ./x.png
    for name_of in (
        lambda path: path.stem,
        lambda path: path.name,
        lambda path: f"{path.resolve().parent.name}_{path.stem}",
        lambda path: f"{path.resolve().parent.name}_{path.name}",
    ):
        names = {path: name_of(path) for path in paths}
        if len({*names.values(), *taken}) == len({*files.values()}) + len(taken):
            return names
    used, by_file = set(taken), {}
    for path, file in files.items():
        if file not in by_file:
            numbers = itertools.count(2)
            name = path.stem
            while name in used:
                name = f"{path.stem}-{next(numbers)}"
            used.add(name)
            by_file[file] = name
    return {path: by_file[file] for path, file in files.items()}
