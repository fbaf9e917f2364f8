"""Lock of a workdir in a bucket: an object that its holder renews and that others may replace when it is not renewed.

Every write has a precondition on the object's generation, a number that the service changes with each write. If two
runs write the lock at the same time, the service therefore rejects one of them.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.storage.address import AnyPath
from focalnet_jax.storage.files import StorageError, storage_error
from focalnet_jax.storage.patience import PATIENCE

BEAT_SECONDS = 5.0  # interval of renewals
PATIENCE_SECONDS = 30.0  # time without a renewal after which the holder counts as ended
_TIMEOUT_SECONDS = 10.0  # time-out of a request
_START_SECONDS = 30.0  # how long a request is repeated before the lock is held


T = TypeVar("T")


class LockLostError(RunFailedError):
    """Raised if another run holds the lock."""


class Lease:
    """The lock object of a workdir, held by this process while it renews it.

    Args:
      path: address of the object.
      holder: description of this process, for messages of other runs.
    """

    def __init__(self, path: AnyPath, holder: dict[str, Any]):
        self._path = path
        self._bucket, self._name = _open(path)
        self._content = json.dumps(holder | {"id": uuid.uuid4().hex})
        self._lost = threading.Event()
        self._writing = threading.Lock()
        self._renewed = -math.inf  # time of the last successful write
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def acquire(
        self, has_ended: Callable[[dict[str, Any]], bool], refused: Callable[[dict[str, Any]], UserError]
    ) -> None:
        """Writes the object; waits for `PATIENCE_SECONDS` if another holder may be running.

        Args:
          has_ended: function that returns whether the process of a stored holder is known to have ended.
          refused: function that returns the error for a stored holder that is running.

        Raises:
          UserError: another run holds the lock.
          StorageError: the bucket cannot be read or written.
        """
        while True:
            found, generation = _repeated(self._read, _START_SECONDS)
            if generation and not has_ended(found):
                self._wait_for(generation, refused(found))
            if _repeated(functools.partial(self._write, generation), _START_SECONDS):
                self._thread.start()
                return

    def check(self) -> None:
        """Raises `LockLostError` if another run has taken the lock; nothing may be written then.

        Renews the lock if the last renewal is not recent, such as after a pause of this process.
        """
        if not self._lost.is_set() and time.monotonic() - self._renewed > 2 * BEAT_SECONDS:
            _repeated(self._renew_now, PATIENCE.seconds)
        if self._lost.is_set():
            raise LockLostError(
                f"another run has taken the lock {self._path}, because this run could not renew it for "
                f"{PATIENCE_SECONDS:.0f} s; this run writes nothing more"
            )

    def release(self) -> None:
        """Stops renewing, and deletes the object unless another run has replaced it."""
        self._ended.set()
        self._thread.join()
        if not self._lost.is_set():
            with contextlib.suppress(Exception):
                self._bucket.blob(self._name).delete(if_generation_match=self._generation, timeout=_TIMEOUT_SECONDS)

    def _read(self) -> tuple[dict[str, Any], int]:
        """Returns the stored holder and the generation; generation 0 if there is no object."""
        from google.api_core.exceptions import NotFound

        with _errors(self._path):
            try:
                blob = self._bucket.get_blob(self._name, timeout=_TIMEOUT_SECONDS, retry=None)
                if blob is None:
                    return {}, 0
                text = blob.download_as_bytes(timeout=_TIMEOUT_SECONDS, retry=None).decode(errors="replace")
            except NotFound:  # replaced or deleted in between
                return self._read()
        try:
            found = json.loads(text)
        except ValueError:
            found = {}
        return (found if isinstance(found, dict) else {}), int(blob.generation)

    def _write(self, generation: int) -> bool:
        """Writes the object if it has the given generation; returns whether it was written."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        with _errors(self._path):
            try:
                blob = self._bucket.blob(self._name)  # a new object, because a used one requires its own generation
                blob.upload_from_string(
                    self._content,
                    if_generation_match=generation,
                    timeout=_TIMEOUT_SECONDS,
                    checksum=None,
                    retry=None,  # the caller repeats the request within its time limit
                )
            except NotFound:
                why = f"there is no bucket {self._bucket.name}; create it first"
                raise StorageError(errno.ENOENT, why, str(self._path)) from None
            except PreconditionFailed:
                return self._is_own()  # a request that was repeated may have succeeded the first time
            self._generation, self._renewed = int(blob.generation), time.monotonic()
        return True

    def _is_own(self) -> bool:
        found, generation = self._read()
        if found != json.loads(self._content):
            return False
        self._generation, self._renewed = generation, time.monotonic()
        return True

    def _wait_for(self, generation: int, refused: UserError) -> None:
        """Waits until a holder has ended; raises the error of `refused` if the holder renews the object."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(1.0)
            _, now = _repeated(self._read, _START_SECONDS)
            if now == 0:
                return
            if now != generation:
                raise refused

    def _renew(self) -> None:
        while not self._lost.is_set() and not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):  # an outage: the lock is lost only when another run writes it
                self._renew_now()

    def _renew_now(self) -> None:
        with self._writing:
            if not self._write(self._generation):
                self._lost.set()


def _repeated(request: Callable[[], T], seconds: float) -> T:
    """Returns the result of a request, which is repeated for `seconds` while the service does not answer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return request()
        except StorageError as error:
            if error.errno != errno.EIO or time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def _open(path: AnyPath) -> tuple[Any, str]:
    """Returns the bucket and the name of an object."""
    from google.cloud import storage

    bucket, name = str(path).removeprefix("gs://").split("/", 1)
    with _errors(path):
        return storage.Client(project=None).bucket(bucket), name


@contextmanager
def _errors(path: AnyPath) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        raise storage_error(error, path) from error
