"""Containers of images: folders, tars, tars inside a tar, WebDataset shards and Parquet files.

Folders and tars are read in place, never extracted. Images in compressed tars and Parquet files cannot be read by
offset and are therefore copied to a spool file in the working folder.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import stat
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, NamedTuple

from focalnet_jax.data.listing import NOT_REGULAR, is_folder, walk
from focalnet_jax.data.prepare.naming import is_hidden, is_tar, may_be_image
from focalnet_jax.errors import UserError

_BLOCK = 512  # size of a block of a tar, in bytes
_CHUNK = 1 << 20  # bytes copied at a time
_LONGEST_HEADER = 1 << 24  # bytes; a longer header means that the tar is damaged
# A compressed archive may unpack to 20 times its size plus a gigabyte. Images hardly compress; decompression bombs do.
GROWTH, GROWTH_BYTES = 20, 1 << 30
OVERWRITTEN = "overwritten by later members of the same name"

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # name of a file in the hub's cache: a hash of its content
_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_OTHERS = {
    b"PK\x03\x04": "a zip archive: unzip it first, and give the folder",
    b"PK\x05\x06": "an empty zip archive: give a folder or an archive with images",
    b"Rar!": "a rar archive: unpack it first, and give the folder",
    b"7z\xbc\xaf": "a 7z archive: unpack it first, and give the folder",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it first with zstd -d, and give the result",
}


@dataclass(frozen=True)
class Container:
    """A folder of images, a tar (a file, or a tar inside a tar), or a Parquet file.

    All members have `split` and `class_name`. If one of these is None, the path or label of each member determines it.
    """

    path: str  # path of the folder or file
    offset: int = 0  # first byte of a tar inside a tar
    size: int | None = None  # bytes of the file or of the tar inside it; None for a folder
    split: str | None = None
    class_name: str | None = None
    holds: Literal["images", "samples", "rows"] = "images"  # samples of WebDataset, rows of Parquet
    imagenet: bool = False  # whether ImageNet's file names and label list determine the classes
    packed: bool = False  # whether it is a compressed tar
    direct: bool = False  # whether only files directly in a folder, or files of a tar that are not tars, are members
    time: int = 0  # modification time in nanoseconds; 0 for a folder and for a file in the hub's cache

    @property
    def title(self) -> str:
        """Name of the container in messages."""
        return f"{self.path} ({self.class_name or self.split})" if self.offset else self.path

    @property
    def spooled(self) -> bool:
        """Whether the images are copied to a spool file."""
        return self.packed or self.holds == "rows"


class File(NamedTuple):
    """A file in a container."""

    name: str
    offset: int  # first byte in the container's file or spool file; 0 in a folder; -1 if it is in neither
    size: int  # bytes
    time: int  # modification time in nanoseconds; 0 in archives
    read: Callable[[], bytes]  # content, or b"" if it is in the spool file; valid until the next file is requested


def opener_of(path: Path) -> Callable[..., BinaryIO] | None:
    """Returns the function that opens a compressed file, or None if the file is not compressed.

    Raises:
      UserError: the file is an archive of an unsupported type, or cannot be read.
    """
    start = first_bytes(path)
    for magic, problem in _OTHERS.items():
        if start.startswith(magic):
            raise UserError(f"{path} is {problem}")
    return next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)


def first_bytes(path: Path) -> bytes:
    """Returns the first 8 bytes of a file, which identify its format; raises `UserError` if the file cannot be read."""
    if path.exists() and not path.is_file():
        raise UserError(f"cannot read {path}: it is {NOT_REGULAR}")
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def tar(path: Path, **fields) -> Container:
    """Returns the `Container` of a tar file; `fields` are other fields of the container."""
    return _file(path, packed=opener_of(path) is not None, **fields)


def parquet(path: Path, **fields) -> Container:
    """Returns the `Container` of a Parquet file; `fields` are other fields of the container."""
    return _file(path, holds="rows", **fields)


def _file(path: Path, **fields) -> Container:
    status = path.stat()
    time = 0 if _DIGEST.fullmatch(path.resolve().name) else status.st_mtime_ns  # a new download changes the time
    return Container(str(path), size=status.st_size, time=time, **fields)


def files(container: Container, skipped: Counter, spool: BinaryIO | None = None) -> Iterator[File]:
    """Yields the files of a folder or tar in order, except hidden files, pipes, and folders linked repeatedly.

    Args:
      container: a container of images or samples.
      skipped: receives the number of files left out, by kind.
      spool: receives the images of a compressed tar. If it is None, their offsets are -1.

    Raises:
      UserError: a file cannot be read, or the tar is damaged or unsafe.
    """
    found = _folder(container, skipped) if container.size is None else _tar_files(container, spool)
    for file in found:
        if container.direct and is_tar(file.name):
            continue  # a separate container
        if is_hidden(file.name):
            skipped["hidden"] += 1
        else:
            yield file


def _folder(container: Container, skipped: Counter) -> Iterator[File]:
    for parent, entries in walk(container.path, lambda name: not container.direct):
        if entries is None:
            skipped["links to folders read already"] += 1
            continue
        for entry in entries:
            if is_folder(entry):
                continue
            path = os.path.join(parent, entry.name)
            relative = os.path.relpath(path, container.path).replace(os.sep, "/")
            try:
                status = os.stat(path)
            except OSError as error:
                if is_hidden(relative):
                    continue
                raise UserError(f"cannot read {path}: {error.strerror}; repair or remove it") from error
            if not stat.S_ISREG(status.st_mode):
                skipped[NOT_REGULAR] += 1
                continue
            yield File(relative, 0, status.st_size, status.st_mtime_ns, Path(path).read_bytes)


def _tar_files(container: Container, spool: BinaryIO | None) -> Iterator[File]:
    for member, file in tar_members(container):
        offset = member.offset_data
        name = str(PurePosixPath(member.name))
        copied = False
        if container.packed:
            offset = -1
            if spool is not None and may_be_image(name) and not is_hidden(name):
                offset = spool.tell()
                _copy(file, member, spool)
                copied = True

        read = partial(file.bytes_at, member.offset_data, member.size)
        yield File(name, offset, member.size, 0, bytes if copied else read)


def _copy(file: _LimitedFile, member: tarfile.TarInfo, spool: BinaryIO) -> None:
    file.check_growth(member.offset_data + member.size)
    file.seek(member.offset_data)
    left = member.size
    while left:
        chunk = file.bytes_at(None, min(left, _CHUNK))
        if not chunk:
            raise EOFError(f"{member.name} is truncated")
        spool.write(chunk)
        left -= len(chunk)


class _LimitedFile:
    """A file that raises `UserError` beyond a size limit, against decompression bombs.

    `block` is the most recently read block of a tar, such as the header of a file in the tar.
    """

    def __init__(self, file: BinaryIO, title: str, limit: int | None):
        self._file, self._title, self._limit = file, title, limit
        self.block = b""

    def read(self, size: int) -> bytes:
        if size > _LONGEST_HEADER:
            raise UserError(f"{self._title} is damaged: it has a header of {size:,} bytes; download it again")
        with self._reading():
            content = self._file.read(size)
        if size == _BLOCK:
            self.block = content
        return content

    def bytes_at(self, offset: int | None, size: int) -> bytes:
        if offset is not None:
            self.seek(offset)
        with self._reading():
            return self._file.read(size)

    def check_growth(self, size: int) -> None:
        """Raises `UserError` if `size`, in bytes, exceeds the limit."""
        if self._limit is not None and size > self._limit:
            raise UserError(
                f"{self._title} unpacks to more than {self._limit:,} bytes, but images do not compress that much: "
                "unpack it yourself if you trust it"
            )

    def seek(self, offset: int) -> int:
        self.check_growth(offset)
        with self._reading():
            return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()

    def check_rest(self) -> None:
        """Reads to the end of a compressed file, so that the checksum at its end is verified."""
        while self.bytes_at(None, _CHUNK):
            self.seek(self.tell())

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Context manager that raises `UserError` if the disk cannot be read."""
        try:
            yield
        except OSError as error:
            if error.errno is None:  # a damaged compressed file
                raise
            raise UserError(f"cannot read {self._title}: {error.strerror}") from error


@contextmanager
def _opened(container: Container) -> Iterator[_LimitedFile]:
    opener, limit = open, None
    if container.packed:
        opener, limit = opener_of(Path(container.path)) or open, GROWTH * container.size + GROWTH_BYTES
    with opener(container.path, "rb") as file:
        if container.offset:
            file.seek(container.offset)
        yield _LimitedFile(file, container.title, limit)


def tar_members(container: Container) -> Iterator[tuple[tarfile.TarInfo, _LimitedFile]]:
    """Yields (header, opened tar) of each file in a tar; the content of the file begins at the header's `offset_data`.

    Raises:
      UserError: the tar is damaged or too large, or contains links or paths that lead out of the tar.
    """
    title = container.title
    end = None if container.packed else container.offset + container.size
    with _opened(container) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    archive.members = []  # else millions of headers stay in memory
                    if end is not None and member.offset_data + member.size > end:
                        raise UserError(f"{title} is truncated: it ends within {member.name}; download it again")
                    if member.isdir():
                        continue
                    path = PurePosixPath(member.name)
                    if not path.name or path.is_absolute() or ".." in path.parts or not member.isreg():
                        raise UserError(
                            f"{title} is unsafe: its member {member.name!r} is a link, leads outside of the archive or "
                            "has no name; expected regular files only"
                        )
                    yield member, file
                # The library stops without an error at a damaged header, like at the block of zeros that ends a tar.
                if len(file.block) < _BLOCK or file.block.strip(b"\0") or (end is not None and archive.offset >= end):
                    raise UserError(f"{title} is damaged or truncated at byte {archive.offset}; download it again")
                if container.packed:
                    file.check_rest()
        except (tarfile.TarError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{title} is damaged or not a tar archive: {error}") from error
        except OSError as error:  # of the decompression; `_reading` raises `UserError` for errors of the disk
            raise UserError(f"{title} is damaged: {error}; download it again") from error
