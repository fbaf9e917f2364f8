"""Finds the images and annotations of a data set in COCO's format, in folders and in zip archives.

The official archives train2017.zip, val2017.zip and annotations_trainval2017.zip contain train2017/*.jpg, val2017/*.jpg
and annotations/instances_{train,val}2017.json. They are read in place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NoReturn

from focalnet_jax.data.coco.parsing import read_json
from focalnet_jax.data.decode import UnreadableImageError, read_file
from focalnet_jax.data.prepare.kinds import check_paths
from focalnet_jax.data.prepare.labels import Labels
from focalnet_jax.data.prepare.locations import locate
from focalnet_jax.data.prepare.naming import is_hidden
from focalnet_jax.data.prepare.zips import Zip
from focalnet_jax.data.split_names import SPLIT_NAMES
from focalnet_jax.errors import UserError, abbreviated

EXPECTED = (
    "a folder with annotations/instances_SPLIT2017.json (or instances_SPLIT.json) and the images, or train2017.zip, "
    "val2017.zip and annotations_trainval2017.zip as they are downloaded"
)
_TRIED = 20  # number of images of a split that are searched for to find the folder of the images
_JSON = re.compile(r"(?:.*/)?instances_(?P<name>(?P<split>[A-Za-z]+)\d*)\.json")
_BESIDE = re.compile(r"(?:.*/)?(?P<name>(?P<split>[A-Za-z]+)\d*)/_annotations\.coco\.json")
_ANY = re.compile(r"(?:.*[/_-])?(?P<name>(?P<split>[A-Za-z]+)\d*)\.json")  # only for --annotations


@dataclass(frozen=True)
class Store:
    """A folder or zip archive with images.

    Attributes:
      path: the folder or archive.
      members: (size in bytes, checksum in an archive or time in a folder) of each file, by its path in the store.
    """

    path: Path
    members: dict[str, tuple[int, str]] = field(repr=False)

    def read(self, archive: Zip | None, name: str) -> bytes:
        """Returns the content of a file; `archive` is the open archive, or None for a folder.

        Raises:
          UnreadableImageError: the file is missing or too large.
          UserError: the archive is damaged.
        """
        return read_file(self.path / name) if archive is None else archive.read(name)

    @property
    def is_zip(self) -> bool:
        """Whether the store is a zip archive."""
        return self.path.is_file()


@dataclass(frozen=True)
class AnnotationFile:
    """A JSON file of a split.

    Attributes:
      split: train, val or test.
      name: the split's name in file names, such as train2017.
      path: the file, or the archive with it.
      member: name of the file in the archive; "" if it is not in an archive.
    """

    split: str
    name: str
    path: Path
    member: str = ""

    @property
    def title(self) -> str:
        """Name of the file in messages."""
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    def read(self) -> bytes:
        """Returns the content; raises `UserError` if it cannot be read."""
        if not self.member:
            return read_json(self.path)
        with Zip(self.path) as archive:
            try:
                return archive.read(self.member)
            except UnreadableImageError as error:
                raise UserError(f"{self.title}: {error}") from error


@dataclass(frozen=True)
class Coco:
    """The annotations of the splits, and the folders and archives with their images."""

    files: tuple[AnnotationFile, ...]
    stores: tuple[Store, ...]

    def prefix(self, file: AnnotationFile, names: Sequence[str]) -> tuple[int, str] | None:
        """Returns the number of the store with the images of a split, and their folder in it, such as "train2017/".

        Returns None if none of the first images is in a store.

        Args:
          file: JSON file of the split.
          names: file names of the images in the JSON file.

        Raises:
          UserError: several folders contain the first image that is found.
        """
        for name in names[:_TRIED]:
            ending = f"/{name}"
            found = [
                (number, member[: len(member) - len(name)])
                for number, store in enumerate(self.stores)
                for member in ([name] if name in store.members else []) + _ending(store, ending)
            ]
            exact = [place for place in found if file.name in PurePosixPath(place[1]).parts]
            found = exact or [place for place in found if file.split in _splits_in(place[1])] or found
            if len(found) > 1:
                raise UserError(
                    f"{file.title}: the image {name} is in several folders: "
                    f"{abbreviated([f'{self.stores[number].path}/{prefix}' for number, prefix in found])}; give only "
                    "the one with its images"
                )
            if found:
                return found[0]
        return None

    def refuse_no_images(self) -> NoReturn:
        """Raises `UserError` because no split has images."""
        stores = ", ".join(str(store.path) for store in self.stores) or "no given file or folder"
        files = ", ".join(file.title for file in self.files)
        raise UserError(f"none of the first images of {files} is in {stores}: expected {EXPECTED}")


def _splits_in(folder: str) -> set[str | None]:
    """Returns the splits that parts of a path name, such as val for images/val2017/."""
    return {SPLIT_NAMES.get(part.rstrip("0123456789").lower()) for part in PurePosixPath(folder).parts}


def _ending(store: Store, ending: str) -> list[str]:
    return [member for member in store.members if member.endswith(ending)]


def find_coco(paths: Sequence[Path], annotations: Sequence[Path] = ()) -> Coco:
    """Returns the annotations and images at `paths`.

    Args:
      paths: folders and zip archives.
      annotations: JSON files, or zip archives with them; if empty, they are searched for at `paths`.

    Raises:
      UserError: a path is missing or damaged, there are no annotations or images, or a split has several files.
    """
    paths = [location.path for path in paths for location in locate("coco", path, Labels())]
    check_paths([*paths, *annotations])
    stores, files = [], []
    for path in paths:
        members = _members(path)
        stores.append(Store(path, {name: value for name, value in members.items() if not name.endswith(".json")}))
        if not annotations:
            files += _annotation_files(path, members)
    for path in annotations:
        if path.suffix == ".json":
            files.append(_annotation_file(path))
        else:
            files += _annotation_files(path, _members(path))
    if not files:
        given = " ".join(map(str, annotations or paths))
        raise UserError(f"{given} contains no file instances_SPLIT.json: expected {EXPECTED}")
    files.sort(key=lambda file: list(SPLIT_NAMES).index(file.split))
    for file, other in pairwise(files):
        if file.split == other.split:
            raise UserError(
                f"{file.title} and {other.title} are both annotations of the split {file.split}: give one of them with "
                "--annotations"
            )
    return Coco(tuple(files), tuple(store for store in stores if store.members))


def _annotation_file(path: Path) -> AnnotationFile:
    absolute = path.absolute().as_posix()
    found = next(filter(None, (pattern.fullmatch(absolute) for pattern in (_JSON, _BESIDE, _ANY))), None)
    split = SPLIT_NAMES.get(found["split"].lower()) if found else None
    if split is None:
        raise UserError(f"--annotations {path}: expected a name that ends with a split, such as instances_train.json")
    return AnnotationFile(split, found["name"], path)


def _annotation_files(path: Path, members: dict[str, tuple[int, str]]) -> list[AnnotationFile]:
    found = []
    for name in sorted(members):
        match = _JSON.fullmatch(name) or _BESIDE.fullmatch(name)
        split = SPLIT_NAMES.get(match["split"].lower()) if match else None
        if split is not None:
            inside = {"path": path / name} if path.is_dir() else {"path": path, "member": name}
            found.append(AnnotationFile(split, match["name"], **inside))
    return found


def _members(path: Path) -> dict[str, tuple[int, str]]:
    """Returns the size of each file in an archive or folder, with its checksum or time, by relative path."""
    if path.is_file():
        with Zip(path) as archive:
            return {
                member.filename: (member.file_size, f"{member.CRC:08x}")
                for member in archive.members
                if not is_hidden(member.filename)
            }
    found = {}
    for parent, _, names in os.walk(path):
        for name in names:
            inside = os.path.relpath(os.path.join(parent, name), path)
            if not is_hidden(inside) and os.path.isfile(os.path.join(parent, name)):
                status = os.stat(os.path.join(parent, name))
                found[Path(inside).as_posix()] = (status.st_size, str(status.st_mtime_ns))
    return found
