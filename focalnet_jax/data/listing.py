"""Lists the images in a folder tree, and counts the files that are left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from focalnet_jax.data.formats import IMAGE_SUFFIXES
from focalnet_jax.errors import RunFailedError, UserError

# Files and folders that operating systems, network drives and editors create, in lower case. Hidden files and folders
# are skipped too.
_LEFT_BEHIND = {"__macosx", "__pycache__", "@eadir", "@synoresource", "#recycle", "#snapshot", "$recycle.bin"} | {
    "lost+found", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"
}  # fmt: skip
_KINDS_NAMED = 8
_HIDDEN, _BROKEN, _NO_SUFFIX = "hidden", "linked to a missing file", "without a suffix"
NOT_REGULAR = "not a regular file"  # such as a pipe, which reading might never end


@dataclass
class Listing:
    """The files in a folder tree.

    Attributes:
      images: sorted paths of the images.
      left_out: number of other files by kind: a suffix, or words such as "hidden".
      broken: links whose target does not exist.
    """

    images: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def __add__(self, other: Listing) -> Listing:
        return Listing(self.images + other.images, self.left_out + other.left_out, self.broken + other.broken)

    @property
    def left_out_counts(self) -> str:
        """Unused files by kind, such as "18 files: 9 .heic, 9 .txt", or an empty string if all files are used."""
        return _count(self.left_out, self.broken)

    @property
    def all_counts(self) -> str:
        """All files by kind, for messages, such as "it contains 3 files: 3 .jpg" or "it is empty"."""
        all_kinds = self.left_out + Counter(map(_suffix, self.images))
        return f"it contains {_count(all_kinds, self.broken)}" if all_kinds else "it is empty"

    def elsewhere(self, where: str) -> Listing:
        """Returns a listing in which all files are left out, with `where` added to the name of each kind of file."""
        all_kinds = self.left_out + Counter(map(_suffix, self.images))
        return Listing(left_out=Counter({f"{kind} {where}": number for kind, number in all_kinds.items()}))


def _count(kinds: Counter[str], broken: Sequence[str]) -> str:
    if not kinds:
        return ""
    count = kinds.total()
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    example = f" (such as {broken[0]})" if broken else ""
    named = [f"{number} {kind}{example if kind == _BROKEN else ''}" for kind, number in ordered[:_KINDS_NAMED]]
    if len(ordered) > _KINDS_NAMED:
        rest = sum(number for _, number in ordered[_KINDS_NAMED:])
        named.append(f"{rest} of other kinds")
    return f"{count} file{'s' if count > 1 else ''}: {', '.join(named)}"


def _suffix(name: str) -> str:
    return PurePath(name).suffix.lower() or _NO_SUFFIX


def left_behind(name: str) -> bool:
    """Returns whether a file or folder is skipped, because it is hidden or created by an operating system or tool."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def list_images(folder: str | Path, suffixes: Iterable[str] = IMAGE_SUFFIXES) -> Listing:
    """Returns the images in a folder tree, recognised by their suffixes.

    Names for which `left_behind` is true are skipped. Links are followed, except to folders that were read already or
    that contain this folder.

    Args:
      folder: root of the tree.
      suffixes: suffixes in lower case.

    Raises:
      UserError: a folder is not readable.
      RunFailedError: the storage fails.
    """
    listing, suffixes = Listing(), tuple(suffixes)
    for _, entries in walk(folder, lambda name: not left_behind(name)):
        _add_files(listing, entries or [], suffixes)
    listing.images.sort()
    listing.broken.sort()
    return listing


def walk(
    folder: str | Path, enter: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, list[os.DirEntry[str]] | None]]:
    """Yields the path of each folder in a tree, and the entries of the folder, sorted by name.

    Links are followed, except to folders that were read already or that contain `folder`. The path of such a link is
    yielded with None instead of entries.

    Args:
      folder: root of the tree.
      enter: function that returns whether to read a subfolder with the given name.

    Raises:
      UserError: a folder is not readable, except folders for whose names `left_behind` is true.
      RunFailedError: the storage fails.
    """
    above = {parent for path in (Path(folder).absolute(), Path(folder).resolve()) for parent in path.parents}
    seen = {_identity(path) for path in above}
    folders, links = [os.fspath(folder)], []
    while folders or links:
        # Links are followed last, so that a folder that is also reachable without a link has the path without it.
        parent = folders.pop() if folders else links.pop(0)
        try:
            if (identity := _identity(parent)) in seen:
                yield parent, None
                continue
            entries = sorted(_entries(parent), key=lambda entry: entry.name)
        except (UserError, RunFailedError):
            if parent != os.fspath(folder) and left_behind(os.path.basename(parent)):  # such as lost+found
                continue
            raise
        seen.add(identity)
        yield parent, entries
        below = [entry for entry in entries if is_folder(entry) and enter(entry.name)]
        folders += reversed([entry.path for entry in below if not entry.is_symlink()])
        links = sorted([*links, *(entry.path for entry in below if entry.is_symlink())])


def list_folders(folder: str | Path) -> tuple[list[Path], Listing]:
    """Returns the sorted subfolders, and a listing of the files directly in the folder.

    Names for which `left_behind` is true are skipped.

    Raises:
      UserError: the folder is not readable.
      RunFailedError: the storage fails.
    """
    listing = Listing()
    folders = sorted(_add_files(listing, _entries(os.fspath(folder)), IMAGE_SUFFIXES))
    return folders, listing


def _add_files(listing: Listing, entries: Iterable[os.DirEntry[str]], suffixes: tuple[str, ...]) -> list[Path]:
    """Adds the files among the entries of a folder to a listing, and returns the subfolders."""
    folders = []
    for entry in entries:
        kind, is_image = _type(entry), entry.name.lower().endswith(suffixes)
        if left_behind(entry.name):
            if kind == "file" and is_image and not entry.name.startswith("._"):  # "._" files are metadata of macOS
                listing.left_out[_HIDDEN] += 1
        elif kind == "folder":
            folders.append(Path(entry.path))
        elif kind == "file" and is_image:
            listing.images.append(entry.path)
        else:
            listing.left_out[_suffix(entry.name) if kind == "file" else kind] += 1
            if kind == _BROKEN:
                listing.broken.append(entry.path)
    return folders


def _identity(path: str | Path) -> tuple[int, int]:
    with _explained(path):
        status = os.stat(path)
    return status.st_dev, status.st_ino


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with _explained(folder), os.scandir(folder) as entries:
        return list(entries)


@contextmanager
def _explained(folder: str | Path) -> Iterator[None]:
    """Context manager that converts errors of the operating system to `UserError` or `RunFailedError`."""
    try:
        yield
    except PermissionError as error:
        raise UserError(f"cannot list {folder}: {error.strerror}; make it readable or remove it") from error
    except OSError as error:
        raise RunFailedError(f"cannot list {folder}: {error.strerror}; start the command again") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Returns whether an entry is a folder, or a link to a folder that can be followed."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _type(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError:  # a link to itself, or into a folder that is not readable
        return _BROKEN
    return _BROKEN if entry.is_symlink() else NOT_REGULAR
