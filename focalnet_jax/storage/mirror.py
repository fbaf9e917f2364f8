"""Copies files that a run appends to, such as metrics.jsonl and TensorBoard's events, to a workdir in a bucket.

Objects cannot be appended to. The files are written to a local folder, and a thread writes each changed file to the
bucket as a whole.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from focalnet_jax.errors import RunFailedError
from focalnet_jax.storage.address import AnyPath, is_bucket
from focalnet_jax.storage.files import StorageError, requests, write_whole
from focalnet_jax.storage.patience import PATIENCE

_INTERVAL_SECONDS = 1.0  # smallest interval between two writes of an object that the service allows
_SHARE = 10  # after an upload of n seconds, a file waits n times this, so that the network stays free
_LONGEST_PAUSE = 60.0


class Mirror:
    """Copies changed files from `folder` to `workdir` until it is closed.

    Args:
      folder: the local folder.
      workdir: address of the workdir. It already has the files that are in `folder` now.
      check: raises an error if the run may no longer write to the workdir.
    """

    def __init__(self, folder: Path, workdir: AnyPath, check: Callable[[], None]):
        self._folder, self._workdir, self._check = folder, workdir, check
        self._copied = {path: _state(path) for path in self._files()}
        self._next: dict[Path, float] = {}  # time from which a file may be copied again
        self._failure: RunFailedError | None = None  # why nothing is copied any more
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mirror", daemon=True)
        self._thread.start()

    def copy(self, *, only_due: bool = False) -> None:
        """Copies all files that have changed. With `only_due`, skips files that were copied recently.

        Raises:
          StorageError: the bucket cannot be written.
          RunFailedError: another run holds the workdir.
        """
        with self._lock:
            self._check()
            for path in self._files():
                if only_due and time.monotonic() < self._next.get(path, 0.0):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    self._copy(path)

    def check(self) -> None:
        """Raises `RunFailedError` if another run holds the workdir, or if writing has failed for a long time."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Ends the thread and copies all remaining changes.

        Raises:
          RunFailedError: the bucket cannot be written. The message names the local folder, which keeps the files.
        """
        self._ended.set()
        self._thread.join()
        try:
            self.copy()
        except StorageError as error:
            raise RunFailedError(
                f"cannot write to {self._workdir}: {error.strerror}; the newest metrics are in {self._folder}: copy "
                "them to the workdir"
            ) from error

    def _copy(self, path: Path) -> None:
        state = _state(path)
        if self._copied.get(path) == state:
            return
        begun = time.monotonic()
        content = path.read_bytes()  # in one read, because the run may append to the file meanwhile
        write_whole(self._workdir / str(path.relative_to(self._folder)), content)
        self._copied[path] = state
        taken = time.monotonic() - begun
        self._next[path] = begun + taken + min(max(_INTERVAL_SECONDS, _SHARE * taken), _LONGEST_PAUSE)

    def _files(self) -> list[Path]:
        """Returns the local files; small ones first, so that large ones do not delay them."""
        sizes = {}
        for path in self._folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # a temporary file of a library
                if path.is_file() and not path.name.endswith(".part"):
                    sizes[path] = path.stat().st_size
        return sorted(sizes, key=sizes.__getitem__)

    def _follow(self) -> None:
        failing_since = None
        while not self._ended.wait(_INTERVAL_SECONDS):
            begun = time.monotonic()
            try:
                self.copy(only_due=True)
                failing_since = None
            except StorageError as error:
                if failing_since is None:
                    failing_since = begun
                    print(f"warning: cannot write to {self._workdir} ({error.strerror}); trying again", file=sys.stderr)
                elif time.monotonic() - failing_since > PATIENCE.seconds:
                    self._failure = RunFailedError(f"cannot write to {self._workdir}: {error.strerror}")
                    return
            except RunFailedError as error:
                self._failure = error
                return
            except OSError as error:
                print(f"warning: cannot read a file of the run: {error}", file=sys.stderr)


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@contextmanager
def local_folder(
    workdir: AnyPath, names: tuple[str, ...], check: Callable[[], None]
) -> Iterator[tuple[Path, Callable[[], None], Callable[[], None]]]:
    """Context manager that yields the folder for files that are appended to, and two functions.

    The first function copies the files now. The second function raises `RunFailedError` if the workdir can no longer be
    written, without a request. For a local workdir, the folder is the workdir itself, and nothing is copied. For a
    bucket, the folder is temporary and has copies of the files `names`. It is deleted at the end if the bucket has all
    its files.
    """
    if not is_bucket(workdir):
        yield Path(workdir), check, check
        return
    folder = Path(tempfile.mkdtemp(prefix="focalnet-"))
    for name in names:
        with contextlib.suppress(FileNotFoundError), requests(workdir):
            (folder / name).write_bytes((workdir / name).read_bytes())
    mirror = Mirror(folder, workdir, check)
    try:
        yield folder, mirror.copy, mirror.check
    except BaseException as first:
        try:
            mirror.close()
        except RunFailedError as error:
            if str(error) not in str(first):  # the first error is the one to report
                print(f"warning: {error}", file=sys.stderr)
        raise
    mirror.close()
    shutil.rmtree(folder, ignore_errors=True)
