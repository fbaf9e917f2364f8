"""Downloads the files of a local copy in the background, with several threads, in one process of a host at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
import urllib.parse
from collections.abc import Iterator
from itertools import islice
from typing import IO

from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.storage.copied import CopiedFiles
from focalnet_jax.storage.download import download, is_intact
from focalnet_jax.storage.files import StorageError, object_at
from focalnet_jax.storage.progress import DownloadProgress

THREADS = 8
POLL_SECONDS = 0.1
_LOCK_SECONDS = 0.5  # interval of attempts to acquire the lock of another process
_RETRY_SECONDS = 2.0


class Downloader:
    """Threads that download files if this process holds the file lock of the copy, and otherwise wait for the lock.

    Attributes:
      files: the files of the copy.
      changed: condition that is notified after each file, and that guards the other attributes.
      needed: names to download, in order.
      first: names of files that this process waits for; these are downloaded first.
      holds: whether this process holds the lock.
      trouble: why the last request failed, or "" if it succeeded.
    """

    def __init__(self, files: CopiedFiles):
        self.files = files
        self.changed = threading.Condition()
        self.needed: dict[str, None] = {}
        self.first: dict[str, None] = {}
        self.holds = False
        self.trouble = ""
        self.progress = DownloadProgress(files.address, files.folder)
        self._taken: set[str] = set()
        self._errors: dict[str, Exception] = {}
        self._failed: Exception | None = None  # an error that concerns all files
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the threads, unless they run. The caller holds `changed`."""
        if self._thread is None and self._failed is None:
            self._thread = threading.Thread(target=self._run, name="download", daemon=True)
            self._thread.start()

    def error_of(self, name: str) -> Exception | None:
        """Returns the error that prevents a file from becoming complete, or None."""
        return self._errors.get(name) or self._failed

    def _run(self) -> None:
        try:
            with (self.files.state / "lock").open("a") as lock:
                while not self._ended():
                    if self.holds or _acquired(lock):
                        self.holds = True
                        self._serve()
                    else:
                        time.sleep(_LOCK_SECONDS)
        except Exception as error:
            with self.changed:
                self._failed = _explained(error, self.files.place)
                self._thread, self.holds = None, False
                self.changed.notify_all()

    def _ended(self) -> bool:
        """Returns whether nothing is left to download; the thread then ends, and `start` starts another one."""
        self.files.finished.update()
        with self.changed:
            for names in (self.needed, self.first):
                for name in [name for name in names if name in self._errors or self.files.is_ready(name)]:
                    names.pop(name)
                    self.progress.finished(name)
            if self._failed is None and (self.needed or self.first):
                return False
            self._thread, self.holds = None, False
            return True

    def _serve(self) -> None:
        self.progress.show()
        threads = [threading.Thread(target=self._work, name="download", daemon=True) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(POLL_SECONDS)
                self.progress.show()

    def _work(self) -> None:
        try:
            self._download_all()
        except Exception as error:  # such as a folder that was deleted
            with self.changed:
                self._failed = _explained(error, self.files.place)
                self.changed.notify_all()

    def _download_all(self) -> None:
        while (name := self._take()) is not None:
            error = None
            try:
                self._get(name)
            except Exception as raised:
                error = raised
            is_transient = isinstance(error, StorageError) and error.errno == errno.EIO
            if (is_transient or isinstance(error, UserError)) and self._was_replaced(name):
                error, is_transient = (
                    UserError(f"{self.files.address}/{name} was replaced during the download; start again"),
                    False,
                )
            gone = isinstance(error, FileNotFoundError) and not self._is_in_bucket(name)
            with self.changed:
                self._taken.discard(name)
                if is_transient:
                    self.progress.warn(error.strerror)
                    self.trouble = error.strerror
                else:
                    self.needed.pop(name, None)
                    self._fail(name, error, gone=gone)
                self.changed.notify_all()
            if is_transient:
                time.sleep(_RETRY_SECONDS)

    def _take(self) -> str | None:
        """Returns the next file to download; None if all are finished, or after an error that affects all files."""
        with self.changed:
            while self._failed is None:
                if (name := self._next()) is not None:
                    self._taken.add(name)
                    return name
                if not self._taken and not self.needed:
                    break
                self.changed.wait(POLL_SECONDS)  # further files may be needed meanwhile
        return None

    def _next(self) -> str | None:
        """Returns a file that a read waits for, else the next needed file, or None. Also removes finished files."""
        for name in (*self.first, *self._wanted_elsewhere(), *islice(self.needed, 2 * THREADS)):
            if name in self._taken or name not in self.files.objects:
                continue
            if name not in self._errors and not self.files.is_ready(name):
                return name
            self.needed.pop(name, None)
            self.files.wanted(name).unlink(missing_ok=True)
        return None

    def _wanted_elsewhere(self) -> Iterator[str]:
        for path in sorted((self.files.state / "wanted").iterdir()):
            with contextlib.suppress(OSError):
                yield urllib.parse.unquote(path.read_text(), errors="surrogateescape")

    def _get(self, name: str) -> None:
        """Downloads a file, or records it as finished if the file is there and intact."""
        stored, sha256, to = self.files.objects[name], self.files.sha256.get(name, ""), self.files.folder / name
        self.files.remove_older_parts(name)
        if not (to.is_file() and is_intact(to, stored, sha256)):
            part = self.files.part(name)
            download(self.files.source(name), stored, to, part, sha256=sha256, arrived=self._arrived)
        self.files.finished.add(name, stored.generation)
        self.progress.finished(name)

    def _arrived(self, size: int) -> None:
        with contextlib.suppress(OSError):
            os.utime(self.files.state / "lock")
        with self.changed:
            self.trouble = ""
        self.progress.arrived(size)

    def _was_replaced(self, name: str) -> bool:
        with contextlib.suppress(OSError):
            stored = object_at(self.files.source(name))
            return stored is not None and stored.generation != self.files.objects[name].generation
        return False

    def _is_in_bucket(self, name: str) -> bool:
        """Returns whether the object of a file exists, or True if the bucket does not answer."""
        with contextlib.suppress(OSError):
            return object_at(self.files.source(name)) is not None
        return True

    def _fail(self, name: str, error: Exception | None, *, gone: bool) -> None:
        """Records an error of one file or of all files. `gone`: whether the file's object does not exist."""
        if isinstance(error, UserError):
            self._errors[name] = error
        elif gone:
            self._errors[name] = UserError(f"{self.files.address}/{name} was deleted during the download; start again")
        elif isinstance(error, FileNotFoundError):  # the folder may be deleted only partly so far
            self._failed = UserError(f"{self.files.place} was deleted during the download; start again")
        elif error is not None:
            self._failed = _explained(error, self.files.place, f"{self.files.address}/{name}")


def _acquired(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _explained(error: Exception, place: str, source: str = "") -> Exception:
    """Returns the error of a download with a one-line message."""
    if isinstance(error, StorageError):
        return UserError(f"{source}: {error.strerror}")
    if isinstance(error, OSError):
        what = f"cannot write to {place}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return RunFailedError(f"{what}; free disk space and start the same command again to resume the download")
        return UserError(f"{what}; choose another folder on a local disk")
    return error
