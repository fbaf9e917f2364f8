"""What holds images: folders and tar archives, also tars inside a tar. Archives are indexed, never extracted."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from focalnet_jax.data.formats import IMAGE_SUFFIXES
from focalnet_jax.errors import UserError

SPLITS = ("train", "val", "test")
# What folders of a split are called, such as imagenet21k_val in 21K-P.
_SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"
}  # fmt: skip
_PREFIXES = ("imagenet", "ilsvrc")  # bullet_train is a class
_NOBODYS = "__MACOSX"
_SYNSET = re.compile(r"n\d{8}")
_GZIP = b"\x1f\x8b"
_BLOCK = 512  # bytes of a tar


def split_named(folder: str) -> str | None:
    """The split a folder of this name holds, if any."""
    folder = folder.lower()
    return _SPLIT_NAMES.get(re.split(r"[_-]", folder)[-1] if folder.startswith(_PREFIXES) else folder)


@dataclass(frozen=True)
class Container:
    """A folder of images, or a tar: a file or a part of one.

    Members belong to `split` and `class_name`; where these are None, the path of each member tells.
    """

    path: str
    offset: int = 0
    size: int | None = None  # of the tar; None: a folder
    split: str | None = None
    class_name: str | None = None
    labelled: bool = False  # members are labelled by the label file, by their names
    time: int = 0  # when the tar was changed last, nanoseconds

    @property
    def title(self) -> str:
        """What to call it in a message."""
        return f"{self.path} ({self.class_name})" if self.offset else self.path


class Index:
    """The members of a container, in its order: a structured array.

    Fields: `name` (bytes, the path within the container), `offset` and `size` (where its bytes lie in the file), `time`
    (when a file of a folder was changed last, ns), `class` (bytes, what it is said to be; empty where nothing or two
    things say it), `split` (a place in `SPLITS`) and `hash` (uint32, of its class and its path below it: a fixed random
    number).
    """

    def __init__(self, members: np.ndarray):
        self.members = members

    @classmethod
    def of(
        cls, names: Sequence[bytes], places: Sequence[Sequence[int]], classes: Sequence[str], splits: Sequence[int],
        below: Sequence[str],
    ) -> Index:  # fmt: skip
        """Of the members with these names, places (offset, size, time), classes, splits and paths below their class."""
        kind = [
            ("name", f"S{max(map(len, names), default=1)}"),
            ("offset", np.int64),
            ("size", np.int64),
            ("time", np.int64),
            ("class", f"S{max((len(name.encode()) for name in classes), default=1) or 1}"),
            ("split", np.int8),
            ("hash", np.uint32),
        ]
        members = np.zeros(len(names), kind)
        if names:
            members["name"], members["class"], members["split"] = names, [name.encode() for name in classes], splits
            members["offset"], members["size"], members["time"] = np.array(places, np.int64).T
            members["hash"] = [_number(f"{name}/{path}") for name, path in zip(classes, below, strict=True)]
        return cls(members)

    def __len__(self) -> int:
        return len(self.members)

    def digest(self) -> str:
        """Another one for other members."""
        return hashlib.sha256(self.members.tobytes() + str(self.members.dtype).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Writes it, whole or not at all."""
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, self.members)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Index:
        """What `save` wrote, mapped: processes share it, and of a large one only what is used is read."""
        return cls(np.load(path, mmap_mode="r"))


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=4).digest(), "little")


def index_container(container: Container, labels: Mapping[str, str] | None = None) -> Index:
    """The images of a container; `labels` is the class by the stem of a file, for containers that need it.

    Raises:
      UserError: a tar is damaged, or holds links or paths that lead out of it; a file cannot be read.
    """
    found = {}  # of a member that a tar holds twice the last counts, as for tar itself
    for name, *place in _folder(container) if container.size is None else _tar(container):
        found[name] = place
    names, places = list(found), list(found.values())
    paths = [PurePosixPath(name).parts for name in names]
    if container.labelled:
        classes = [(labels or {}).get(PurePosixPath(name).stem, "") for name in names]
        return Index.of([os.fsencode(name) for name in names], places, classes, _splits(container, paths), names)
    below = paths
    if container.class_name:
        classes = [container.class_name] * len(names)
    else:
        below = _from_class_on(paths)
        classes = [parts[0] if len(parts) > 1 else "" for parts in below]
        below = [parts[1:] for parts in below]
    classes = [_agreed(name, parts[-1]) for name, parts in zip(classes, paths, strict=True)]
    for name in set(classes):
        _check_utf8(container, name)
    inner = ["/".join(parts) for parts in below]
    return Index.of([os.fsencode(name) for name in names], places, classes, _splits(container, paths), inner)


def _check_utf8(container: Container, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{container.title}: the class folder {name!r} is not named in UTF-8; rename it") from error


def _agreed(named: str, file: str) -> str:
    """The class of a file in a folder of that name, or nothing: ImageNet's files are named for their class too."""
    if not may_be_image(file):
        return ""
    synset = _SYNSET.match(file)
    return "" if synset and _SYNSET.fullmatch(named) and synset[0] != named else named


def _split_place(parts: Sequence[str]) -> int | None:
    """Which of the folders of a path, the one above the file left out, is named for a split."""
    return next((place for place, folder in enumerate(parts[:-2]) if split_named(folder)), None)


def _splits(container: Container, paths: Sequence[Sequence[str]]) -> list[int]:
    if container.split is not None:
        return [SPLITS.index(container.split)] * len(paths)
    places = [_split_place(parts) for parts in paths]
    return [
        0 if place is None else SPLITS.index(split_named(parts[place]))
        for parts, place in zip(paths, places, strict=True)
    ]


def _from_class_on(paths: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Each path from its class folder on: what follows the split, or the folders that all others share."""
    below, loose = [], []
    for parts in paths:
        place = _split_place(parts)
        below.append(parts if place is None else parts[place + 1 :])
        if place is None:
            loose.append(parts)
    if not loose:
        return below
    folders = [parts[:-1] for parts in loose if parts[-1].lower().endswith(IMAGE_SUFFIXES)]  # a README says nothing
    folders = folders or [parts[:-1] for parts in loose]
    shared = sum(itertools.takewhile(bool, (a == b for a, b in zip(min(folders), max(folders), strict=False))))
    # Files that lie right in the folder all share are of the class it is named for.
    depth = shared - any(len(folder) == shared for folder in folders)
    return [
        parts[max(depth, 0) :] if len(parts) == len(whole) else parts for parts, whole in zip(below, paths, strict=True)
    ]


def may_be_image(name: str) -> bool:
    """Whether a file of this name is worth decoding: of an image's suffix, or of none."""
    return name.lower().endswith(IMAGE_SUFFIXES) or not PurePosixPath(name).suffix


def _counts(name: str) -> bool:
    return not name.rpartition("/")[2].startswith(".") and _NOBODYS not in name.split("/")


def _folder(container: Container) -> Iterator[tuple[str, int, int, int]]:
    for parent, folders, names in os.walk(container.path):
        folders.sort()
        for name in filter(_counts, sorted(names)):
            path = os.path.join(parent, name)
            try:
                stat = os.stat(path)
            except OSError as error:
                raise UserError(f"cannot read {path}: {error.strerror}; repair or remove it") from error
            yield os.path.relpath(path, container.path).replace(os.sep, "/"), 0, stat.st_size, stat.st_mtime_ns


def _tar(container: Container) -> Iterator[tuple[str, int, int, int]]:
    for member, offset in _tar_members(container):
        if _counts(member.name):
            yield str(PurePosixPath(member.name)), offset, member.size, 0


def _tar_members(container: Container) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """The files of a tar and where each one's bytes begin; only headers are read."""
    end = container.offset + container.size
    with open(container.path, "rb") as file:
        if file.read(2) == _GZIP:
            raise UserError(f"{container.path} is compressed; images are read in place: gunzip it first")
        file.seek(container.offset)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    archive.members = []  # or millions of headers stay in memory
                    if member.offset_data + member.size > end:
                        raise UserError(f"{container.title} is cut off: {member.name} goes on after its end")
                    if member.isdir():
                        continue
                    path = PurePosixPath(member.name)
                    if path.is_absolute() or ".." in path.parts or not member.isreg():
                        raise UserError(
                            f"{container.title} holds {member.name!r}, a link or a path out of it: refused, no archive "
                            "of images has such"
                        )
                    yield member, member.offset_data
                # The library ends as quietly at a damaged header as at the block of zeros that ends a tar.
                file.seek(archive.offset)
                if archive.offset >= end or file.read(_BLOCK).strip(b"\0"):
                    raise UserError(f"{container.title} is damaged or cut off at byte {archive.offset}; get it again")
        except (tarfile.TarError, EOFError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{container.title} is damaged or no tar archive: {error}") from error


def tar(path: Path, *, split: str | None = None, class_name: str | None = None, labelled: bool = False) -> Container:
    """The container a tar file is."""
    stat = path.stat()
    return Container(str(path), 0, stat.st_size, split, class_name, labelled, stat.st_mtime_ns)


def inner_tars(path: Path, split: str | None) -> list[Container]:
    """The tars inside a tar, one a class, or the tar itself if it holds images."""
    whole = tar(path, split=split)
    inner = []
    for member, offset in _tar_members(whole):
        if not member.name.endswith(".tar"):
            if may_be_image(member.name) and _counts(member.name):
                return [whole]
            continue
        inside = PurePosixPath(member.name)
        named = next(filter(None, map(split_named, inside.parts[:-1])), "train")
        inner.append(Container(str(path), offset, member.size, split or named, inside.stem, time=whole.time))
    return sorted(inner, key=lambda container: container.class_name or "")
