"""One run at a time writes to a workdir: two would take each other's checkpoints for their own and delete them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from focalnet_jax.errors import RunFailedError, UserError

LOCK = "lock"
BEAT_SECONDS = 3.0  # how often a holder shows that it lives, for those on other machines
PATIENCE_SECONDS = 20.0  # a holder on another machine that has shown nothing for so long is gone


@contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Holds a workdir, which is made if it is not there; one that was made here and is left empty is removed again.

    On one machine the operating system's lock decides, which ends with its process. Of a holder on another machine,
    whose lock a file system may not know of, the file's date is watched: it is gone if that stands still. So neither
    kill nor crash leaves a lock that somebody has to remove.

    Raises:
      UserError: another run holds it, or it cannot be written.
      RunFailedError: the disk is full.
    """
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
        yield
    finally:
        ended.set()
        beating.join()
        with contextlib.suppress(OSError):
            (workdir / LOCK).unlink()
        file.close()
        _remove_empty(made)


def cannot_write(workdir: Path, error: OSError) -> UserError | RunFailedError:
    """What is said of a workdir that cannot be written: a full disk is nobody's mistake."""
    told = f"cannot write to --workdir {workdir}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunFailedError(f"{told}; make room and start it again")
    return UserError(f"{told}; choose another")


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # what is not empty stays
        for folder in folders:
            folder.rmdir()


def is_held(workdir: Path) -> bool:
    """Whether somebody has shown of late that a workdir is held; takes and changes nothing."""
    try:
        return abs(time.time() - (workdir / LOCK).stat().st_mtime) < PATIENCE_SECONDS
    except OSError:
        return False


def _make_and_acquire(workdir: Path) -> IO[str]:
    """Tries again where a file or folder has gone: another holder has just ended and removed what it had made."""
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
                file.close()  # its holder has just removed it: another one is made
                continue
            file.truncate(0)
            file.write(json.dumps(_me()))
            file.flush()
            return file
        except OSError:
            with contextlib.suppress(OSError):  # a lock that says nothing, of a disk that is full
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
    except OSError:  # a file system without locks: what the file says has to do
        return


def _refuse_living(text: str, path: Path) -> None:
    """Refuses where the one who wrote the file lives."""
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


def _refused(holder: dict[str, Any], path: Path) -> UserError:
    by = "host {host}, process {pid}, since {since}".format_map({"host": "?", "pid": "?", "since": "?"} | holder)
    return UserError(f"--workdir {path.parent} is held by another run ({by}): wait for it, stop it, or choose another")


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
    """When a process began, as its system counts it; None for one that is not there. A number may be given again."""
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
    return ""  # it lives; no more is known here


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)
