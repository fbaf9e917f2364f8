"""Sources and outputs of a preparation that are in buckets.

Sources are copied to this host. Each finished shard is moved to the bucket, with its report in .prepare, so that the
preparation can be resumed on any host. The card, which makes the data set complete, is written last.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from focalnet_jax.data.card import CARD
from focalnet_jax.data.prepare.locations import is_on_hub
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.storage.address import AnyPath, is_bucket, to_path
from focalnet_jax.storage.cached import copy_of, errors_name_bucket
from focalnet_jax.storage.copied import name_hash
from focalnet_jax.storage.files import StorageError, answering, object_at, objects, remove, upload, write_whole
from focalnet_jax.storage.lease import Lease

WORK = ".prepare"  # folder of the reports and intermediate files of a preparation
_RECORDS = (".json", ".digest", ".sha256")  # suffixes of the files in `WORK` that are needed to resume
_ATTEMPTS = 5
_KEY = "--cache"


@contextmanager
def local_sources(paths: Sequence[str], cache: str, *, nested: bool) -> Iterator[list[Path]]:
    """Context manager that gives local copies of files and folders in buckets; other paths are unchanged.

    Errors raised in the context name the addresses in place of the copies.

    Args:
      paths: local paths, addresses in buckets, and addresses on the Hugging Face Hub.
      cache: parent folder of the copies.
      nested: whether an address may be inside another one.

    Raises:
      UserError: an address is given twice or is inside another one, there is nothing at an address or no permission
        to read it, or the disk is too small.
      RunFailedError: a bucket does not answer.
    """
    addresses = [Path(path) if is_on_hub(Path(path)) else to_path(path, "--source") for path in paths]
    _refuse_repeated([str(address) for address in addresses if is_bucket(address)], nested)
    found = []
    with ExitStack() as stack:
        for address in addresses:
            if not is_bucket(address):
                found.append(address)
                continue
            copy, local = copy_of(address, cache, _KEY)
            if local is None:
                raise UserError(f"--source {address}: there is no such file or folder; check bucket and name")
            stack.enter_context(errors_name_bucket(copy))
            found.append(local)
        yield found


def _refuse_repeated(addresses: Sequence[str], nested: bool) -> None:
    for number, address in enumerate(addresses):
        for other in addresses[:number]:
            inside = f"{address}/".startswith(f"{other}/") or f"{other}/".startswith(f"{address}/")
            if address == other or (inside and not nested):
                raise UserError(
                    f"--source {other} {address}: some images are in both sources and would occur twice; give only "
                    "one of the two"
                )


@dataclass(frozen=True)
class Upload:
    """Moves the files of a data set to a bucket. Picklable, for worker processes.

    Attributes:
      address: folder of the data set in the bucket.
      folder: local folder of the data set.
    """

    address: str
    folder: Path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Context manager that locks the data set, and replaces the preparation's local state by the bucket's state.

        At the end, the reports of a complete data set are deleted from the bucket.

        Raises:
          UserError: another process prepares this data set.
          RunFailedError: the bucket does not answer.
        """
        lock, work = self._path(WORK) / "lock", self.folder / WORK
        holder = {"host": socket.gethostname(), "pid": os.getpid()}
        lease = Lease(lock, holder)
        with self._resumable(lock):
            lease.acquire(_has_ended, self._refused)
        try:
            for record in [self.folder / CARD, *(path for path in work.iterdir() if path.suffix in _RECORDS)]:
                record.unlink(missing_ok=True)
            with self._resumable(lock):
                found = [f"{WORK}/{name}" for name in objects(self._path(WORK)) if Path(name).suffix in _RECORDS]
                for name in [*found, *([CARD] if object_at(self._path(CARD)) else [])]:
                    (self.folder / name).write_bytes(self._path(name).read_bytes())
            yield
            lease.check()
            with self._resumable(lock):
                self._remove_records()
        finally:
            lease.release()

    def move(self, path: Path) -> None:
        """Moves a local file to the bucket."""
        self.copy(path)
        path.unlink()

    def copy(self, path: Path) -> None:
        """Copies a local file to the bucket.

        Raises:
          UserError: there is no permission, or the bucket does not exist.
          RunFailedError: the bucket does not answer.
        """
        to = self._path(path.relative_to(self.folder).as_posix())
        with self._resumable(to):
            for attempt in range(_ATTEMPTS):
                try:
                    return upload(path, to)
                except StorageError as error:
                    if error.errno != errno.EIO or attempt == _ATTEMPTS - 1:
                        raise
                time.sleep(2.0**attempt)

    def finish(self) -> None:
        """Copies the files that describe the data set to the bucket, the card last."""
        for path in sorted(self.folder.iterdir()):
            if path.is_file() and path.name != CARD:
                self.copy(path)
        self.copy(self.folder / CARD)

    def _remove_records(self) -> None:
        """Deletes the reports in the bucket if the data set is complete."""
        for name in objects(self._path(WORK)) if object_at(self._path(CARD)) else ():
            if Path(name).suffix in _RECORDS:
                remove(self._path(WORK) / name)

    def _refused(self, holder: dict) -> UserError:
        by = f"host {holder.get('host', '?')}, process {holder.get('pid', '?')}"
        return UserError(f"another process is preparing {self.address} ({by}); wait for it or stop it")

    def _path(self, name: str) -> AnyPath:
        return to_path(f"{self.address}/{name}", "--out")

    @contextmanager
    def _resumable(self, path: AnyPath) -> Iterator[None]:
        try:
            with answering(path):
                yield
        except FileNotFoundError as error:
            raise UserError(f"--out {self.address}: there is no such bucket; create it first") from error


@contextmanager
def local_output(out: str, cache: str) -> Iterator[tuple[Path, str]]:
    """Context manager that gives the local folder for `--out`, and its address in a bucket, or "" if it is local.

    A local path is its own folder. For an address, it is a folder in `cache`, which is deleted at the end unless the
    preparation failed.

    Raises:
      UserError: the bucket does not exist, or there is no permission to write.
      RunFailedError: the bucket does not answer.
    """
    to = to_path(out, "--out")
    if not is_bucket(to):
        yield Path(out), ""
        return
    _check_writable(to)
    address = str(to)
    folder = Path(os.path.abspath(os.path.expanduser(cache)), f"out-{name_hash(address)}")
    try:
        yield folder, address
    except (UserError, RunFailedError) as error:
        raise type(error)(str(error).replace(str(folder), address)) from error
    shutil.rmtree(folder, ignore_errors=True)


def _check_writable(folder: AnyPath) -> None:
    """Writes and deletes an object in a folder of a bucket; raises the errors of `local_output`."""
    trial = folder / f".writable-{socket.gethostname()}-{os.getpid()}"
    try:
        write_whole(trial, "")
        remove(trial)
    except FileNotFoundError as error:
        bucket = str(folder).removeprefix("gs://").partition("/")[0]
        raise UserError(f"--out {folder}: there is no bucket {bucket}; create it first") from error
    except StorageError as error:
        kind = RunFailedError if error.errno == errno.EIO else UserError
        raise kind(f"--out {folder}: cannot be written: {error.strerror}") from error


def _has_ended(holder: dict) -> bool:
    """Returns whether the process that holds the lock ran on this host and has ended."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it runs as another user
        pass
    return False
