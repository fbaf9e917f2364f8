"""Lists and downloads the files of a data set on the hub.

The files are kept in the hub's cache. The list of files is kept there too, so that a data set in the cache can be used
without a connection, and an incomplete one is not mistaken for a smaller data set.
"""

from __future__ import annotations

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

from focalnet_jax.errors import LEFT_BEHIND, RunFailedError, UserError
from focalnet_jax.hub.address import Address
from focalnet_jax.hub.download import check_digest
from focalnet_jax.hub.library import UnreachableError, explained, import_hub

_AT_ONCE = 8  # files downloaded at the same time
_WAITS = (1.0, 10.0, 60.0)  # seconds before each further attempt to download a file
Progress = Callable[[int], Callable[[int, int], None]]
_OURS = "focalnet_jax"  # folder in the cache of a repository with lists of files and with links to files


@dataclass(frozen=True)
class Listing:
    """The files of a repository at a commit."""

    commit: str  # 40 hexadecimal digits
    sizes: Mapping[str, int]  # bytes of each file, by path in the repository


@functools.cache
def list_files(address: Address) -> Listing:
    """Returns the files of the repository of an address; `address.path` is ignored.

    During a process, a revision always refers to the same commit. If the hub cannot be reached, the list of the last
    time is used, with a note on stderr.

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
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_name(f".{kept.name}.{os.getpid()}")
    part.write_text(json.dumps(dataclasses.asdict(listing)))
    part.replace(kept)
    return listing


def _read(path: Path) -> Listing | None:
    try:
        return Listing(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def fetch_files(
    address: Address, listing: Listing, names: Sequence[str], progress: Progress = lambda _: lambda *_: None
) -> Path:
    """Downloads files that are not in the cache, and returns the folder that contains the repository's files.

    After an interruption, files that are complete are not downloaded again. Each new file is compared with its SHA-256.

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
    return snapshot


def _fetch(address: Address, commit: str, name: str) -> None:
    """Downloads a file; makes further attempts if the connection is interrupted or the hub is busy."""
    hub = import_hub(address)
    for wait in (*_WAITS, None):
        try:
            with explained(dataclasses.replace(address, path=name)):
                kwargs = dict(repo_type="dataset", revision=commit, library_name="focalnet_jax")
                path = Path(hub.hf_hub_download(address.repo, name, **kwargs))
            check_digest(path, address)
            blob = path.resolve()
            for left in blob.parent.glob(f"{blob.name}.*.incomplete"):  # of processes that were killed
                left.unlink(missing_ok=True)
            return
        except RunFailedError:
            if wait is None or hub.constants.HF_HUB_OFFLINE:
                raise
            time.sleep(wait)


def _refuse_small_disk(address: Address, needed: int, count: int) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    existing = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f"{address}: {count} files of {needed / 1e9:,.1f} GB are not downloaded yet, but {existing} has only "
            f"{free / 1e9:,.1f} GB of free space: set HF_HOME to a folder on a larger disk"
        )


class _quiet:
    """Context manager that disables the progress bars of huggingface_hub, one per file."""

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
    """Returns a folder in the hub's cache with links to some files of a repository, which must be in the cache.

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
