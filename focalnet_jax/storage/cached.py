"""Local copies of folders in buckets, which are kept between runs and shared by the processes of a host.

The copy of a folder NAME is CACHE/BUCKET-HASH/NAME, and its state is next to it. One process of a host downloads at a
time: the one that holds the file lock `lock`. It appends a line to `files.jsonl` for each file that is complete and
verified. Other processes follow this list, and put the names of the files that they wait for into `wanted`. If the
holder ends, another process continues.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from focalnet_jax.errors import RunFailedError, UserError, shown_size
from focalnet_jax.storage.address import AnyPath, to_path
from focalnet_jax.storage.copied import CopiedFiles, name_hash
from focalnet_jax.storage.downloader import POLL_SECONDS, Downloader
from focalnet_jax.storage.files import StoredObject, answering, object_at, objects

PATIENCE_SECONDS = 300.0  # a read fails if nothing arrives for this time
_opened: dict[tuple[str, str], CachedFolder] = {}


def cached_folder(address: AnyPath, cache: str | os.PathLike[str], key: str) -> CachedFolder:
    """Returns the copy of a folder in a bucket. All callers in a process share it.

    Args:
      address: the folder.
      cache: parent folder of all copies.
      key: the config key or flag that sets `cache`, for messages, such as `--cache`.

    Raises:
      UserError: the cache cannot be written.
    """
    where = os.path.abspath(os.path.expanduser(cache))
    if (str(address), where) not in _opened:
        _opened[str(address), where] = CachedFolder(address, Path(where), key)
    return _opened[str(address), where]


def copy_of(address: AnyPath, cache: str | os.PathLike[str], key: str) -> tuple[CachedFolder, Path | None]:
    """Copies a file or folder in a bucket, and waits until it is complete.

    Args:
      address: the file or folder.
      cache: parent folder of all copies.
      key: see `cached_folder`.

    Returns:
      The copy of the folder, or of the file's folder, and the local path of the file or folder; None instead of the
      path if there is nothing at the address.

    Raises:
      UserError: no permission, or the disk is too small.
      RunFailedError: the bucket does not answer.
    """
    with answering(address):
        stored = object_at(address)
    copy = cached_folder(address if stored is None else address.parent, cache, key)
    if stored is None:
        return copy, copy.fetch_all() if copy.list() else None
    copy.include({address.name: stored})
    copy.need({address.name: 0})
    return copy, copy.path(address.name)


def last_arrival() -> float:
    """Returns when bytes last arrived for incomplete copies that this process needs, in seconds since 1970, or 0.0."""
    return max((copy.last_arrival() for copy in list(_opened.values()) if copy.is_incomplete()), default=0.0)


class CachedFolder:
    """A local copy of a folder in a bucket, whose files are downloaded in the background after `need` names them.

    An instance can be sent to other processes. They wait for its files, or continue the download if the downloading
    process has ended.
    """

    def __init__(self, address: AnyPath, cache: Path, key: str):
        self._key, self._cache = key, cache
        bucket = str(address).removeprefix("gs://").partition("/")[0]
        above = cache / f"{bucket[:100]}-{name_hash(str(address))}"
        folder, state = above / address.name, above / ".state"  # the copy keeps the name, which may be that of a split
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (state / "wanted").mkdir(parents=True, exist_ok=True)
            with (state / "lock").open("a"):
                pass
        except OSError as error:
            raise UserError(
                f"cannot write to {key}={cache}: {error.strerror or error}; set {key} to a folder on a local disk"
            ) from error
        self._files = CopiedFiles(str(address), folder, state, f"{key}={cache}")
        self._downloader = Downloader(self._files)
        self._listed: dict[tuple[str, bool], dict[str, StoredObject]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_key": self._key, "_cache": self._cache, "_files": self._files}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__ |= state
        self._downloader = Downloader(self._files)
        self._listed = {}

    @property
    def address(self) -> str:
        """Address of the folder in the bucket."""
        return self._files.address

    @property
    def folder(self) -> Path:
        """The local folder."""
        return self._files.folder

    @property
    def objects(self) -> Mapping[str, StoredObject]:
        """The listed objects by name, without folders."""
        return self._files.objects

    def list(self, below: str = "", *, recursive: bool = True) -> dict[str, StoredObject]:
        """Returns the objects below a folder by name, adds them to `objects`, and creates the local folders.

        Names of folders end with a slash. Each folder is listed once per process.

        Raises:
          UserError: there is no permission, or a name leads out of the folder.
          RunFailedError: the bucket does not answer.
        """
        if (below, recursive) in self._listed:
            return self._listed[below, recursive]
        folder = to_path(f"{self.address}/{below}" if below else self.address)
        with answering(folder):
            listed = objects(folder, recursive=recursive)
        found = {f"{below}/{name}" if below else name: stored for name, stored in listed.items()}
        for name in found:
            if any(part in ("", ".", "..") for part in name.removesuffix("/").split("/")):
                raise UserError(
                    f"{self.address}/{name}: expected no empty part and no . or .. between slashes; rename the object"
                )
            if name.endswith("/"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.include({name: stored for name, stored in found.items() if not name.endswith("/")})
        self._listed[below, recursive] = found
        return found

    def include(self, objects: Mapping[str, StoredObject]) -> None:
        """Adds objects that can be downloaded, without listing the folder."""
        self._files.objects |= objects

    def expect(self, sha256: Mapping[str, str]) -> None:
        """Sets the expected SHA-256 of files by name. For other files, the bucket's checksum is used."""
        self._files.sha256 |= sha256

    def need(self, examples: Mapping[str, int]) -> None:
        """Starts to download files in the background, in the given order.

        Args:
          examples: the number of examples in each file, by name.

        Raises:
          UserError: the disk is too small for these and all earlier files.
        """
        self._files.finished.update()
        with self._downloader.changed:
            new = {name: count for name, count in examples.items() if not self._files.is_ready(name)}
            self._downloader.needed |= dict.fromkeys(new)
            self._check_disk()
            if new:
                sizes = {name: self._files.objects[name].size for name in new}
                self._downloader.progress.add(sum(new.values()), sizes)
                self._downloader.start()

    def path(self, name: str) -> Path:
        """Returns the local path of a file. Waits until the file is complete, and downloads it before all other files.

        Raises:
          UserError: the object is damaged or missing, or there is no permission to read it.
          RunFailedError: the bucket does not answer, or the disk is full.
        """
        if name not in self._files.finished.seen and not self._files.is_ready(name):
            self._wait(name)
        return self.folder / name

    def fetch(self, names: Iterable[str]) -> Path:
        """Waits until files are complete, and returns the local folder. Raises the errors of `path`."""
        for name in names:
            self.path(name)
        return self.folder

    def fetch_all(self, below: str = "", *, examples: int = 0) -> Path:
        """Copies everything below a folder, and deletes local files that are not in the bucket; returns the local path.

        Args:
          below: name of the folder.
          examples: number of examples in each file.

        Raises:
          UserError: the disk is too small; and the errors of `path`.
        """
        files = [name for name in self.list(below) if not name.endswith("/")]
        known = {os.path.join(self.folder, name) for name in files}
        for parent, _, present in os.walk(self.folder / below):
            for path in (os.path.join(parent, name) for name in present):
                if path not in known:
                    os.unlink(path)
        self.need(dict.fromkeys(files, examples))
        self.fetch(files)
        return self.folder / below

    def is_incomplete(self) -> bool:
        """Returns whether files that this process needs are missing, no matter which process downloads them."""
        return bool(self._downloader.needed or self._downloader.first)

    def last_arrival(self) -> float:
        """Returns when a process of this host last received bytes, in seconds since 1970."""
        with contextlib.suppress(OSError):
            return (self._files.state / "lock").stat().st_mtime
        return 0.0

    def missing_bytes(self) -> int:
        """Returns the number of bytes that this process needs and that are not on the disk."""
        return sum(map(self._files.missing_bytes, list(self._downloader.needed)))

    def _check_disk(self) -> None:
        beside = [copy for copy in _opened.values() if copy is not self and copy._cache == self._cache]
        others = sum(copy.missing_bytes() for copy in beside)
        missing, free = self.missing_bytes(), shutil.disk_usage(self._cache).free
        if missing + others > free:
            also = f", in addition to {shown_size(others)} for other data," if others else ""
            raise UserError(
                f"{self.address} needs {shown_size(missing)} more in {self._key}={self._cache}{also} but its disk has "
                f"only {shown_size(free)} free: set {self._key} to a folder on a larger disk, or mount the bucket "
                "with gcsfuse and give the mounted folder"
            )

    def _wait(self, name: str) -> None:
        downloader = self._downloader
        arrival, since = self.last_arrival(), time.monotonic()
        try:
            while True:
                self._files.finished.update()
                with downloader.changed:
                    if self._files.is_ready(name):
                        return
                    error = downloader.error_of(name)
                    if error is None:
                        downloader.first[name] = None
                        downloader.start()
                        downloader.changed.wait(POLL_SECONDS)
                if error is not None:
                    raise type(error)(*error.args) from error
                with contextlib.suppress(OSError):
                    if not downloader.holds and not self._files.wanted(name).exists():
                        self._files.wanted(name).write_text(urllib.parse.quote(name, errors="surrogateescape"))
                if (now := self.last_arrival()) != arrival:
                    arrival, since = now, time.monotonic()
                elif time.monotonic() - since > PATIENCE_SECONDS:
                    own = "the bucket does not answer" if downloader.holds else "another process of this host downloads"
                    why = downloader.trouble or own
                    raise RunFailedError(
                        f"{self.address}/{name}: nothing arrived for {PATIENCE_SECONDS:.0f} s ({why}); start the same "
                        "command again to resume the download"
                    )
        finally:
            with downloader.changed:
                downloader.first.pop(name, None)
            with contextlib.suppress(OSError):
                self._files.wanted(name).unlink(missing_ok=True)


@contextmanager
def errors_name_bucket(copy: CachedFolder) -> Iterator[None]:
    """Context manager in which errors name addresses in the bucket instead of the local folder and its parent."""
    try:
        yield
    except (UserError, RunFailedError) as error:
        message = str(error).replace(str(copy.folder), copy.address)
        message = re.sub(re.escape(str(copy.folder.parent)) + "(?![/\\w])", copy.address.rpartition("/")[0], message)
        if message == str(error):
            raise
        raise type(error)(message) from error
