"""Lists and downloads the files of a data set on the hub.

The files and the list of all files are kept in the hub's cache. With the list, a data set in the cache can be used
without a connection, and an incomplete download is not mistaken for a smaller data set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from focalnet_jax.errors import LEFT_BEHIND, RunFailedError, UserError, shown_size
from focalnet_jax.hub.address import Address
from focalnet_jax.hub.download import check_digest, discard, is_damaged
from focalnet_jax.hub.library import UnreachableError, explained, import_hub

_AT_ONCE = 8  # number of files that are downloaded or checked at the same time
_LARGE = 10**9  # smallest size in bytes of files whose check is announced
_WAITS = (1.0, 10.0, 60.0)  # seconds before each further attempt to download a file
Progress = Callable[[int], Callable[[int, int], None]]
_INTACT = "intact.json"  # file in the folder of a commit, with the state of files whose SHA-256 was verified
_OURS = "focalnet_jax"  # folder in the cache of a repository with lists of files and with links to files


@dataclass(frozen=True)
class Listing:
    """The files of a repository at a commit."""

    commit: str  # 40 hexadecimal digits
    sizes: Mapping[str, int]  # bytes of each file, by path in the repository


@functools.cache
def list_files(address: Address) -> Listing:
    """Returns the files of the repository of an address; `address.path` is ignored.

    During a process, an address always refers to the same commit. If the hub cannot be reached, the last list in the
    cache is used, with a note on stderr.

    Raises:
      UserError: the repository or revision does not exist or is not accessible, or huggingface_hub is not installed.
      RunFailedError: the hub cannot be reached and the list is not in the cache, or a file has an unsafe path.
    """
    hub = import_hub(address)
    kept = _folder(address) / f"{quote(address.revision or 'main', safe='')}.json"
    try:
        with explained(address):
            info = hub.HfApi(library_name="focalnet_jax").dataset_info(
                address.repo, revision=address.revision, files_metadata=True
            )
    except UnreachableError as error:
        listing = _read(kept)
        if listing is None:
            raise
        why = f"{address}: HF_HUB_OFFLINE is set" if hub.constants.HF_HUB_OFFLINE else error
        print(f"note: {why}; commit {listing.commit} in the cache is used", file=sys.stderr)
        return listing
    listing = Listing(info.sha, {file.rfilename: file.size or 0 for file in info.siblings or ()})
    for name in listing.sizes:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise RunFailedError(f"{address}: the repository lists a file outside of it, {name!r}")
    with explained(address):
        _write(kept, dataclasses.asdict(listing))
    return listing


def _write(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(content))
    part.replace(path)


def _read(path: Path) -> Listing | None:
    try:
        return Listing(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def fetch_files(
    address: Address, listing: Listing, names: Sequence[str], progress: Progress = lambda _: lambda *_: None
) -> Path:
    """Downloads files that are not in the cache, and returns the folder that contains the repository's files.

    After an interruption, files that are complete are not downloaded again. At every call, the size of each file is
    compared with the hub's. The SHA-256 of large files is verified before their first use and whenever they have
    changed. Damaged files are downloaded again.

    Args:
      address: an address in the repository.
      listing: the files of the repository.
      names: paths of the files in the repository.
      progress: called with the number of files to download; returns a function that is called after each download, as
        `report(done, size)`, with the number of downloaded files and the size of the last one in bytes.

    Raises:
      UserError: a file is not accessible, or the disk is too small.
      RunFailedError: a download failed repeatedly, or the hub cannot be reached.
    """
    snapshot = _repository(address) / "snapshots" / listing.commit
    _discard_damaged(address, listing, names)
    missing = [name for name in names if not (snapshot / name).is_file()]
    if not missing:
        return snapshot
    needed = sum(listing.sizes[name] for name in missing)
    _refuse_small_disk(address, needed, len(missing))
    report = progress(len(missing))
    with _quiet():
        pool = ThreadPoolExecutor(min(_AT_ONCE, len(missing)), thread_name_prefix="download")
        pending = {pool.submit(_fetch, address, listing.commit, name): name for name in missing}
        try:
            for done, future in enumerate(as_completed(pending), 1):
                future.result()
                report(done, listing.sizes[pending[future]])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            LEFT_BEHIND.append("downloads")
            raise
        pool.shutdown()
    _record_intact(address, listing, missing)
    return snapshot


def _discard_damaged(address: Address, listing: Listing, names: Sequence[str]) -> None:
    """Removes damaged files from the cache. The SHA-256 is verified only for files that are not recorded as intact."""
    snapshot = _repository(address) / "snapshots" / listing.commit
    intact = _intact(address, listing)
    unknown = []
    for name in names:
        path = snapshot / name
        if not path.is_file():
            continue
        size, expected = path.stat().st_size, listing.sizes[name]
        if expected and size != expected:
            with explained(address):
                discard(path, f"it has {size:,} bytes; expected {expected:,}")
        elif intact.get(name) != _state(path):
            unknown.append(name)
    if (size := sum(listing.sizes[name] for name in unknown)) > _LARGE:
        total = f"{len(unknown)} files ({shown_size(size)} in total)"
        print(f"{address}: checking {total} in the cache", file=sys.stderr, flush=True)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        damaged = list(pool.map(lambda name: is_damaged(snapshot / name), unknown))
    for name, is_bad in zip(unknown, damaged, strict=True):
        if is_bad:
            with explained(address):
                discard(snapshot / name)
    if unknown:
        _record_intact(address, listing, [name for name, bad in zip(unknown, damaged, strict=True) if not bad])


def _intact(address: Address, listing: Listing) -> dict[str, list[int]]:
    """Returns the state of each file when its SHA-256 was last verified, by path in the repository, see `_state`."""
    try:
        return dict(json.loads((_folder(address) / listing.commit / _INTACT).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _record_intact(address: Address, listing: Listing, names: Sequence[str]) -> None:
    snapshot = _repository(address) / "snapshots" / listing.commit
    states = {name: _state(snapshot / name) for name in names}
    with contextlib.suppress(OSError):  # if the cache cannot be written, files are compared every time
        _write(_folder(address) / listing.commit / _INTACT, _intact(address, listing) | states)


def _state(path: Path) -> list[int]:
    """Returns the size of a file in bytes and the modification time in nanoseconds."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _fetch(address: Address, commit: str, name: str) -> None:
    """Downloads a file to the cache. After a failed download, makes up to three further attempts, unless offline."""
    hub = import_hub(address)
    for wait in (*_WAITS, None):
        try:
            with explained(dataclasses.replace(address, path=name)):
                kwargs = dict(repo_type="dataset", revision=commit, library_name="focalnet_jax")
                path = Path(hub.hf_hub_download(address.repo, name, **kwargs))
            check_digest(path, address)
            blob = path.resolve()
            for left in blob.parent.glob(f"{blob.name}.*.incomplete"):  # files of processes that were killed
                left.unlink(missing_ok=True)
            return
        except RunFailedError as error:
            if wait is None or hub.constants.HF_HUB_OFFLINE:
                raise
            print(f"{error}: trying again in {wait:.0f} s", file=sys.stderr, flush=True)
            time.sleep(wait)


def _refuse_small_disk(address: Address, needed: int, count: int) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    existing = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f"{address}: {count} files ({shown_size(needed)} in total) are not downloaded yet, but {existing} has only "
            f"{shown_size(free)} of free space: set HF_HOME to a folder on a larger disk"
        )


class _quiet:
    """Context manager that disables the progress bars of huggingface_hub, which shows one per file."""

    def __enter__(self) -> None:
        from huggingface_hub import utils

        self._shown = not utils.are_progress_bars_disabled()
        if self._shown:
            utils.disable_progress_bars()

    def __exit__(self, *_: object) -> None:
        from huggingface_hub import utils

        if self._shown:
            utils.enable_progress_bars()


def linked(address: Address, listing: Listing, names: Collection[str], name: str) -> Path:
    """Returns a folder in the hub's cache with symbolic links to some files of a repository.

    The files must be in the cache. Missing links are created.

    Args:
      address: an address in the repository.
      listing: the files of the repository.
      names: paths of the files in the repository.
      name: name of the folder; the same name must always mean the same files of a commit.
    """
    snapshot = _repository(address) / "snapshots" / listing.commit
    folder = _folder(address) / listing.commit / name
    for file in names:
        link = folder / file
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            part = link.with_name(f".{link.name}.{os.getpid()}")
            part.symlink_to(os.path.relpath(snapshot / file, link.parent))
            part.replace(link)
    return folder


def _repository(address: Address) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"datasets--{address.repo.replace('/', '--')}"


def _folder(address: Address) -> Path:
    return _repository(address) / _OURS
