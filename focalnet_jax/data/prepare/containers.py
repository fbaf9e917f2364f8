"""What holds images: folders and tar archives, also tars inside a tar. Archives are indexed, never extracted."""

from __future__ import annotations

import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from focalnet_jax.data.sources import IMAGE_SUFFIXES
from focalnet_jax.errors import UserError

_SYNSET = re.compile(r"n\d{8}")
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Container:
    """A folder of images, a tar, or a part of a file that is one.

    Members belong to `split` and `class_name`; where these are None, the path of each member tells.
    """

    path: str
    offset: int = 0
    size: int | None = None  # None: a folder, or the whole file
    split: str | None = None
    class_name: str | None = None
    labelled: bool = False  # members are labelled by the label file, by their names

    @property
    def title(self) -> str:
        """What to call it in a message."""
        return f"{self.path} ({self.class_name})" if self.offset else self.path


@dataclass(frozen=True)
class Index:
    """The members of a container, in its order: arrays of the same length."""

    names: np.ndarray  # bytes, the path within the container
    offsets: np.ndarray  # int64, where the member's bytes begin in the file
    sizes: np.ndarray  # int64
    classes: np.ndarray  # bytes, what each is said to be; empty where nothing or two things say it
    splits: np.ndarray  # int8, a place in SPLITS
    hashes: np.ndarray  # uint32, of the file name: a fixed random number

    def save(self, path: Path) -> None:
        """Writes it, whole or not at all."""
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, **vars(self))
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Index:
        """Reads what `save` wrote."""
        with np.load(path) as arrays:
            return cls(**arrays)


SPLITS = ("train", "val", "test")


def index_container(container: Container, labels: Mapping[str, str] | None = None) -> Index:
    """The images of a container; `labels` is the class by the stem of a file, for containers that need it.

    Raises:
      UserError: a tar is damaged, or holds links or paths that lead out of it.
    """
    rows = []
    members = _folder(container) if Path(container.path).is_dir() else _tar(container)
    for name, offset, size in members:
        path = PurePosixPath(name)
        if name.lower().endswith(IMAGE_SUFFIXES) and not path.name.startswith("."):
            named = (labels or {}).get(path.stem, "") if container.labelled else _class_of(container, path)
            rows.append((os.fsencode(name), offset, size, named.encode(), _split_of(container, path)))
    names, offsets, sizes, classes, splits = list(zip(*rows, strict=True)) or [()] * 5
    return Index(
        np.array(names, bytes),
        np.array(offsets, np.int64),
        np.array(sizes, np.int64),
        np.array(classes, bytes),
        np.array(splits, np.int8),
        np.array([zlib.crc32(name.rpartition(b"/")[2]) for name in names], np.uint32),
    )


def _class_of(container: Container, path: PurePosixPath) -> str:
    named = container.class_name or path.parent.name
    synset = _SYNSET.match(path.name)
    # ImageNet's files are named for their class: one that is named for another was put there by mistake.
    return "" if synset and _SYNSET.fullmatch(named) and synset[0] != named else named


def _split_of(container: Container, path: PurePosixPath) -> int:
    if container.split is not None:
        return SPLITS.index(container.split)
    folders = path.parts[:-2]  # such as imagenet21k_val in 21K-P
    named = (place for place, split in enumerate(SPLITS) if any(re.search(rf"(^|[_-]){split}$", f) for f in folders))
    return next(named, 0)


def _folder(container: Container) -> Iterator[tuple[str, int, int]]:
    for parent, folders, names in os.walk(container.path):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            yield os.path.relpath(path, container.path).replace(os.sep, "/"), 0, os.path.getsize(path)


def _tar(container: Container) -> Iterator[tuple[str, int, int]]:
    for member, offset in _tar_members(container):
        yield member.name, offset, member.size


def _tar_members(container: Container) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """The files of a tar and where each one's bytes begin; only headers are read."""
    with open(container.path, "rb") as file:
        if file.read(2) == _GZIP:
            raise UserError(f"{container.path} is compressed; images are read in place: gunzip it first")
        file.seek(container.offset)
        end = None if container.size is None else container.offset + container.size
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    archive.members = []  # or millions of headers stay in memory
                    if end is not None and member.offset_data > end:
                        break
                    if member.isdir():
                        continue
                    path = PurePosixPath(member.name)
                    if path.is_absolute() or ".." in path.parts or not member.isreg():
                        raise UserError(
                            f"{container.title} holds {member.name!r}, a link or a path out of it: refused, no archive "
                            "of images has such"
                        )
                    yield member, member.offset_data
        except (tarfile.TarError, EOFError) as error:
            raise UserError(f"{container.title} is damaged or no tar archive: {error}") from error


def inner_tars(path: str, split: str | None) -> list[Container]:
    """The tars inside a tar, one a class, or the tar itself if it holds images."""
    whole = Container(path, split=split)
    inner = []
    for member, offset in _tar_members(whole):
        if not member.name.endswith(".tar"):
            return [whole]
        inner.append(Container(path, offset, member.size, split or "train", PurePosixPath(member.name).stem))
    return sorted(inner, key=lambda container: container.class_name or "")
