"""Operations on files that differ between local disks and buckets.

In a bucket, one object is written atomically. A folder is the common prefix of names, and is renamed by copying and
deleting every object. Requests fail occasionally; gcsfs and TensorStore repeat them for about half a minute.
"""

from __future__ import annotations

import base64
import errno
import functools
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.storage.address import AnyPath, is_bucket
from focalnet_jax.storage.failures import StorageError, storage_error, unreadable
from focalnet_jax.system import files

_BLOCK = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class StoredObject:
    """Properties of an object in a bucket."""

    size: int  # bytes
    generation: int  # number that changes with each write: the time of the write in microseconds since 1970
    crc32c: str  # CRC-32C of the content in base64


def write_whole(path: AnyPath, content: str | bytes) -> None:
    """Writes a file atomically: after a kill or a failure, an existing file is unchanged.

    Raises:
      OSError: the file cannot be written.
    """
    if not is_bucket(path):
        return files.write_whole(Path(path), content)
    with requests(path):
        _file_system().pipe_file(os.fspath(path), content.encode() if isinstance(content, str) else content)


def read_text(path: AnyPath) -> str:
    """Returns the text of a file, invalid UTF-8 replaced; raises `OSError` if it cannot be read."""
    with requests(path):
        return path.read_bytes().decode(errors="replace")


def exists(path: AnyPath) -> bool:
    """Returns whether a file or folder exists; raises `OSError` if a bucket cannot be reached."""
    return path.exists() if not is_bucket(path) else _entry(path) is not None


def is_file(path: AnyPath) -> bool:
    """Returns whether a file exists; raises `OSError` if a bucket cannot be reached, unlike `Path.is_file`."""
    return path.is_file() if not is_bucket(path) else (_entry(path) or {}).get("type") == "file"


def is_folder(path: AnyPath) -> bool:
    """Returns whether a folder exists; raises `OSError` if a bucket cannot be reached, unlike `Path.is_dir`."""
    return path.is_dir() if not is_bucket(path) else (_entry(path) or {}).get("type") == "directory"


def check_bucket(path: AnyPath, key: str = "") -> None:
    """Checks that the bucket of an address exists; a local path is not checked.

    Args:
      path: the address.
      key: config key that has the address, for the message.

    Raises:
      UserError: the bucket does not exist.
      StorageError: the bucket cannot be listed.
    """
    if not is_bucket(path):
        return
    bucket = str(path).removeprefix("gs://").partition("/")[0]
    with requests(path):
        try:
            _file_system().call("GET", "b/{}/o", bucket, maxResults=1)
        except FileNotFoundError as error:
            given = f"{key}={path}" if key else path
            raise UserError(f"{given}: there is no such bucket; check its name") from error


def folders_in(folder: AnyPath) -> list[AnyPath]:
    """Returns the folders in a folder, sorted by name; an empty list if the folder does not exist."""
    if not is_bucket(folder):
        return sorted(folder.glob("*/"))
    entries = _listing(folder, recursive=False)
    return sorted(folder / name for name, entry in entries.items() if entry["type"] == "directory")


def sizes(folder: AnyPath) -> dict[str, int]:
    """Returns the size in bytes of every file in a folder and below, by relative name."""
    if is_bucket(folder):
        return {name: entry["size"] for name, entry in _listing(folder, recursive=True).items()}
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in found}


def sizes_of(folder: AnyPath, names: Iterable[str]) -> dict[str, int]:
    """Returns the sizes in bytes of the files `names` in a folder, without files that do not exist."""
    if is_bucket(folder):
        found = sizes(folder)
        return {name: found[name] for name in names if name in found}
    present = {}
    for name in names:
        with suppress(OSError):  # files may be deleted at any time
            present[name] = (folder / name).stat().st_size
    return present


def objects(folder: AnyPath, *, recursive: bool = True) -> dict[str, StoredObject]:
    """Returns the objects below a folder of a bucket, by relative name.

    Without `recursive`, returns only the objects directly in the folder, and one entry per subfolder, whose name ends
    with a slash.

    Raises:
      StorageError: the bucket cannot be read.
    """
    found = {}
    for name, entry in _listing(folder, recursive=recursive).items():
        is_folder = entry["type"] == "directory" or entry["name"].endswith("/")
        found[f"{name}/" if is_folder else name] = _stored(entry)
    return found


def _stored(entry: dict) -> StoredObject:
    return StoredObject(int(entry["size"]), int(entry.get("generation", 0)), entry.get("crc32c", ""))


def object_at(path: AnyPath) -> StoredObject | None:
    """Returns the object at an address, or None. Raises `StorageError` if the bucket does not answer."""
    entry = _entry(path)
    return _stored(entry) if entry and entry["type"] == "file" else None


def read_range(path: AnyPath, start: int, end: int) -> bytes:
    """Returns the bytes of an object from `start` up to, but excluding, `end`.

    Raises:
      FileNotFoundError: there is no such object.
      StorageError: the bucket cannot be read, or the object ends before `end`.
    """
    with requests(path):
        content = _file_system().cat_file(os.fspath(path), start=start, end=end)
    if len(content) != end - start:
        raise StorageError(errno.EIO, f"{len(content)} instead of {end - start} bytes were sent", str(path))
    return content


def upload(local: Path, path: AnyPath) -> None:
    """Copies a local file to a bucket; raises `StorageError` if it cannot be written or arrives damaged."""
    with requests(path):
        _file_system().put_file(os.fspath(local), os.fspath(path).removeprefix("gs://"))
        stored = _file_system().info(os.fspath(path))
    if int(stored["size"]) != local.stat().st_size or stored.get("crc32c", "") not in ("", crc32c(local)):
        raise StorageError(errno.EIO, "its content changed during the upload", str(path))


def crc32c(local: Path) -> str:
    """Returns the CRC-32C of a local file in base64, as in `StoredObject`."""
    import google_crc32c

    checksum = google_crc32c.Checksum()
    with local.open("rb") as file:
        while block := file.read(_BLOCK):
            checksum.update(block)
    return base64.b64encode(checksum.digest()).decode()


def digest(path: AnyPath) -> str:
    """Returns the SHA-256 of a file's content; raises `OSError` if it cannot be read."""
    with requests(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_tree(folder: AnyPath) -> None:
    """Deletes a folder with its files, if it exists; ignores files on a disk that cannot be deleted."""
    if not is_bucket(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif found := _listing(folder, recursive=True, markers=True):
        with requests(folder), suppress(FileNotFoundError):  # deleted by a request whose answer was lost
            _file_system().rm([entry["name"] for entry in found.values()])


def remove(path: AnyPath) -> None:
    """Deletes a file, if it exists."""
    with requests(path):
        path.unlink(missing_ok=True)


def move(folder: AnyPath, to: AnyPath) -> AnyPath:
    """Renames a folder; returns the new path. In a bucket every file is copied before the first is deleted."""
    if not is_bucket(folder):
        return folder.rename(to)
    names = list(_listing(folder, recursive=True))
    with requests(folder):
        for name in names:
            _file_system().copy(f"{folder}/{name}", f"{to}/{name}")
    remove_tree(folder)
    return to


def changed_at(path: AnyPath) -> float:
    """Returns when a file was written, in seconds since 1970; raises `OSError` if it does not exist."""
    if not is_bucket(path):
        return path.stat().st_mtime
    with requests(path):
        return _file_system().modified(os.fspath(path)).timestamp()


@contextmanager
def requests(path: AnyPath) -> Iterator[None]:
    """Context manager that raises `StorageError` for errors of a bucket, `FileNotFoundError` for a missing object."""
    try:
        yield
    except (FileNotFoundError, StorageError, UserError, RunFailedError):
        raise
    except Exception as error:  # aiohttp, requests, google.auth and gcsfs have no type in common
        if not is_bucket(path):
            raise
        raise storage_error(error, path) from error


@contextmanager
def answering(path: AnyPath) -> Iterator[None]:
    """Context manager that converts `StorageError` to `RunFailedError` or `UserError`, see `unreadable`."""
    try:
        yield
    except StorageError as error:
        raise unreadable(error.filename or path, error) from error


def _entry(path: AnyPath) -> dict | None:
    """Returns the properties of a file or folder of a bucket, or None if there is none.

    gcsfs's own `exists` returns False if the request is forbidden.
    """
    with requests(path):
        try:
            return _file_system().info(os.fspath(path))
        except FileNotFoundError:
            return None


def _listing(folder: AnyPath, *, recursive: bool, markers: bool = False) -> dict[str, dict]:
    """Returns the entries in a folder of a bucket by relative name; only files if `recursive`.

    The console and gcsfuse write empty objects for folders, with names that end in /. Unless `markers` is set, these
    are left out.
    """
    prefix = os.fspath(folder).removeprefix("gs://").rstrip("/") + "/"
    with requests(folder):
        try:
            found = _file_system().find(prefix, detail=True) if recursive else _entries(prefix)
        except FileNotFoundError:
            return {}
    if markers:
        return found
    if recursive:
        found = {name: entry for name, entry in found.items() if not name.endswith("/")}
    return {name[len(prefix) :].rstrip("/"): entry for name, entry in found.items() if name.rstrip("/") != prefix[:-1]}


def _entries(prefix: str) -> dict[str, dict]:
    return {entry["name"]: entry for entry in _file_system().ls(prefix, detail=True)}


def _file_system():
    return _file_system_of(os.getpid())


@functools.cache
def _file_system_of(process: int):
    """Returns the client of this process. All threads share it, because each client requests credentials."""
    import fsspec

    return fsspec.filesystem("gcs")
