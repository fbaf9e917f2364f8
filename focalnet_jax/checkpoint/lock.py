"""Lock of a workdir: two runs in one workdir would delete each other's checkpoints."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.storage.address import AnyPath, is_bucket
from focalnet_jax.storage.files import StorageError, changed_at
from focalnet_jax.storage.lease import PATIENCE_SECONDS as LEASE_SECONDS
from focalnet_jax.storage.lease import Lease

LOCK = "lock"
BEAT_SECONDS = 3.0  # interval at which the holder updates the lock file's modification time (heartbeat)
PATIENCE_SECONDS = 20.0  # time without a heartbeat after which a holder on another machine counts as ended


@contextmanager
def held(workdir: AnyPath) -> Iterator[Callable[[], None]]:
    """Context manager that holds the lock of a workdir, and yields a function that raises if the lock is lost.

    Creates missing folders, and removes the created folders at the end if they are empty.

    Processes of one machine use the operating system's file lock, which ends with its process. File systems may not
    share this lock with other machines. A process on another machine therefore watches the modification time of the
    lock file: a holder that stops updating the file has ended. A kill or crash leaves no lock to remove by hand. In a
    bucket, the lock is a `Lease`.

    Raises:
      UserError: another run holds the lock, or the workdir cannot be written.
      RunFailedError: the disk is full.
    """
    if is_bucket(workdir):
        with _leased(workdir) as lease:
            yield lease.check
        return
    made = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    try:
        file = _make_and_acquire(workdir)
    except OSError as error:
        _remove_empty(made)
        raise cannot_write(workdir, error) from error
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(workdir / LOCK, ended), name="lock", daemon=True)
    beating.start()
    try:
        yield lambda: None
    finally:
        ended.set()
        beating.join()
        with contextlib.suppress(OSError):
            (workdir / LOCK).unlink()
        file.close()
        _remove_empty(made)


@contextmanager
def _leased(workdir: AnyPath) -> Iterator[Lease]:
    path = workdir / LOCK
    try:
        lease = Lease(path, _me() | {"machine": _machine()})
        lease.acquire(_has_ended, lambda holder: _refused(holder, path))
    except StorageError as error:
        raise cannot_write(workdir, error) from error
    try:
        yield lease
    finally:
        lease.release()


def _has_ended(holder: dict[str, Any]) -> bool:
    """Returns whether a holder is known to have ended: its process ran in this boot and PID namespace, and is gone."""
    machine = _machine()
    return machine is not None and holder.get("machine") == machine and holder["begun"] != _begun(holder.get("pid", 0))


def _machine() -> str | None:
    """Returns an id of this boot and PID namespace, or None if unknown; host names of containers may be equal."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def cannot_write(workdir: AnyPath, error: OSError) -> UserError | RunFailedError:
    """Returns the error for a workdir that cannot be written.

    This is `RunFailedError` for a full disk and for a bucket that does not answer, else `UserError`.
    """
    text = f"cannot write to --workdir {workdir}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunFailedError(f"{text}; free disk space and start the same command again")
    if isinstance(error, StorageError) and error.errno == errno.EIO:
        return RunFailedError(f"{text}; start the same command again later")
    if isinstance(error, StorageError):  # the text already says what to do, such as "create it first"
        return UserError(text)
    return UserError(f"{text}; choose another")


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # folders with content stay
        for folder in folders:
            folder.rmdir()


def is_held(workdir: AnyPath) -> bool:
    """Returns whether the lock file of a workdir has a recent heartbeat, without acquiring the lock.

    Raises `StorageError` if a bucket cannot be read.
    """
    try:
        patience = LEASE_SECONDS if is_bucket(workdir) else PATIENCE_SECONDS
        return abs(time.time() - changed_at(workdir / LOCK)) < patience
    except StorageError:
        raise
    except OSError:
        return False


def _make_and_acquire(workdir: Path) -> IO[str]:
    """Creates the workdir and acquires its lock. Retries if a holder that just ended removes the folders."""
    for _ in range(9):
        with contextlib.suppress(FileNotFoundError):
            workdir.mkdir(parents=True, exist_ok=True)
            return _acquire(workdir / LOCK)
    return _acquire(workdir / LOCK)


def _acquire(path: Path) -> IO[str]:
    while True:
        file = path.open("a+", errors="replace")
        try:
            _lock(file, path)
            file.seek(0)
            _refuse_living(file.read(), path)
            if not (path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())):
                file.close()  # the previous holder has just removed the file: create a new file
                continue
            file.truncate(0)
            file.write(json.dumps(_me()))
            file.flush()
            return file
        except OSError:
            with contextlib.suppress(OSError):  # an empty lock file, left by a full disk
                if not path.stat().st_size:
                    path.unlink()
            file.close()
            raise
        except BaseException:
            file.close()
            raise


def _lock(file: IO[str], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _refused(_read(path.read_text(errors="replace")), path) from None
    except OSError:  # a file system without locks: the content of the file decides
        return


def _refuse_living(text: str, path: Path) -> None:
    """Raises `UserError` if the holder named in the lock file is still running.

    Waits up to `PATIENCE_SECONDS` for a heartbeat of a holder on another machine.
    """
    holder = _read(text)
    if not holder:
        return
    if holder.get("host") == socket.gethostname():
        if holder != _me() and holder.get("begun") == _begun(holder.get("pid", 0)):
            raise _refused(holder, path)
        return
    before, deadline = path.stat().st_mtime_ns, time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.5)
        if not path.exists():
            return
        if path.stat().st_mtime_ns != before:
            raise _refused(holder, path)


def _refused(holder: dict[str, Any], path: AnyPath) -> UserError:
    by = "host {host}, process {pid}, since {since}".format_map({"host": "?", "pid": "?", "since": "?"} | holder)
    return UserError(f"--workdir {path.parent} is used by another run ({by}): wait for it, stop it, or choose another")


def _read(text: str) -> dict[str, Any]:
    try:
        holder = json.loads(text)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _me() -> dict[str, Any]:
    pid = os.getpid()
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(_SINCE))
    return {"host": socket.gethostname(), "pid": pid, "begun": _begun(pid), "since": since}


_SINCE = time.time()


def _begun(pid: int) -> str | None:
    """Returns the start time of a process, or None if it has ended.

    The start time distinguishes processes with the same pid. It is a string: system ticks since the boot, or "" if
    it is unknown.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return ""  # without /proc, only the existence of a process is known


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)
