"""Downloads the files of a model on the hub to the hub's cache.

huggingface_hub provides the cache, tokens, offline mode, retries, resumed downloads and progress bars.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.hub.address import Address, is_address, parse_address
from focalnet_jax.hub.choice import DESCRIPTIONS, INDEX, choose, shards_of
from focalnet_jax.hub.library import UnreachableError, explained, import_hub

_COMMIT, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Fetched:
    """A downloaded weights file, or a downloaded index of shards.

    Files that describe the weights are in the same folder. All these files are symbolic links to the cache's blobs.
    """

    address: Address
    path: Path
    commit: str  # commit of the repository, 40 hexadecimal digits
    described: bool  # whether a config.json is next to the weights


def local_path(path: str | Path) -> str | Path:
    """Returns the local path of the weights at an address `hf://ORG/NAME[@REVISION][/FILE]`.

    Other paths are returned unchanged. Files that are not in the cache are downloaded. During a process, an address
    always refers to the same commit.

    Raises:
      UserError: the address is malformed; the repository, revision or file does not exist or is not accessible; or
        huggingface_hub is not installed.
      RunFailedError: the hub cannot be reached and the cache does not contain the model, or the download failed.
    """
    return fetch(parse_address(path)).path if is_address(path) else path


def origin(path: str | Path) -> tuple[str, ...]:
    """Returns a note with the file and commit of an address on the hub, or an empty tuple for other paths."""
    if not is_address(path):
        return ()
    fetched = fetch(parse_address(path))
    return (f"{fetched.path.name} of commit {fetched.commit} of hf://{fetched.address.repo}",)


def fingerprint(path: str | Path) -> str | None:
    """Returns the commit and the file name of an address on the hub, or None for other paths.

    Processes that read the same weights have equal fingerprints.
    """
    fetched = fetch(parse_address(path)) if is_address(path) else None
    return fetched and f"{fetched.commit}/{fetched.path.name}"


@functools.cache
def fetch(address: Address) -> Fetched:
    """Downloads the weights at an address, with the files that describe them. Raises the errors of `local_path`."""
    hub = import_hub(address)
    cached = _cached_commit(address)
    names = _names_in(_snapshot(address, cached)) if cached else []
    if cached and cached == address.revision and address.path in names:  # a file of a commit never changes
        found = _from_cache(address, cached, names)
        if found is not None and found.described:
            return found
    try:
        with explained(address):
            info = hub.HfApi(library_name="focalnet_jax").model_info(address.repo, revision=address.revision)
            listed = [file.rfilename for file in info.siblings or ()]
            return _fetched(address, address.revision or "main", listed)
    except UnreachableError as error:
        found = _from_cache(address, cached, names) if cached else None
        if found is None:
            raise
        why = f"{address}: HF_HUB_OFFLINE is set" if hub.constants.HF_HUB_OFFLINE else error
        without = "" if found.described else f", without {DESCRIPTIONS[0]}, which the cache lacks"
        print(f"note: {why}; {found.path.name} of commit {cached} in the cache is used{without}", file=sys.stderr)
        return found


def _from_cache(address: Address, commit: str, names: list[str]) -> Fetched | None:
    """Returns the weights at an address from the cached files `names`, or None if a file is missing from the cache."""
    try:
        return _fetched(address, commit, names, local=True)
    except (UserError, RunFailedError):
        return None


def _fetched(address: Address, revision: str, names: list[str], *, local: bool = False) -> Fetched:
    """Chooses files among `names` and downloads them. With `local`, files must be in the cache."""
    choice = choose(names, address.path, str(address))
    blobs = _snapshot(address, "").parent / "blobs"
    before = {path.name for path in blobs.glob("*")}

    def get(name: str, revision: str) -> Path:
        path = _download(address, name, revision, local=local)
        if path.resolve().name in before:
            if not is_damaged(path):
                return path
            discard(path)
            path = _download(address, name, revision, local=local)
        check_digest(path, address)
        return path

    # The first download determines the commit of a branch, which the cache records. The weights are downloaded after
    # the files that describe them, so that a cache with the weights also has these files.
    first, *others = (*choice.descriptions, choice.weights)
    path = get(first, revision)
    commit = _commit_of(path, first)
    for name in others:
        path = get(name, commit)
    if choice.weights.endswith(INDEX):
        for shard in shards_of(_json(path), choice.weights, str(address)):
            get(shard, commit)
    described = any(name.rpartition("/")[2] == DESCRIPTIONS[0] for name in choice.descriptions)
    return Fetched(address, path, commit, described)


def _download(address: Address, name: str, revision: str, *, local: bool) -> Path:
    """Returns the path of a file in the cache. A missing file is downloaded or, with `local`, an error."""
    hub = import_hub(address)
    with explained(dataclasses.replace(address, path=name)):
        kwargs = dict(revision=revision, local_files_only=local, library_name="focalnet_jax")
        return Path(hub.hf_hub_download(address.repo, name, **kwargs))


def is_damaged(path: Path) -> bool:
    """Returns whether the SHA-256 of a file in the cache differs from the name of its blob.

    The blobs of small files are named by their git hash instead, and are not checked.
    """
    blob = path.resolve()
    if not _SHA256.fullmatch(blob.name):
        return False
    with blob.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() != blob.name


def discard(path: Path, why: str = "its SHA-256 differs") -> None:
    """Removes a damaged file from the cache, with a note on stderr."""
    _remove(path)
    print(f"note: {path} in the hub's cache was damaged ({why}) and is removed", file=sys.stderr, flush=True)


def _remove(path: Path) -> None:
    blob = path.resolve()
    path.unlink()
    blob.unlink(missing_ok=True)


def check_digest(path: Path, address: Address) -> None:
    """Checks the SHA-256 of a new file, because huggingface_hub checks only the size.

    Raises:
      RunFailedError: the file is damaged. The file is then removed from the cache.
    """
    if is_damaged(path):
        _remove(path)
        raise RunFailedError(
            f"{address}: {path.name} was damaged during the download (its SHA-256 differs); start again"
        )


def _commit_of(path: Path, name: str) -> str:
    """Returns the commit in the path of a cached file, .../snapshots/COMMIT/NAME."""
    return path.parts[-1 - len(name.split("/"))]


def _cached_commit(address: Address) -> str | None:
    """Returns the commit of an address in the cache, or None if the cache does not contain the address."""
    revision = address.revision or "main"
    if _COMMIT.fullmatch(revision):
        return revision if _snapshot(address, revision).is_dir() else None
    reference = _snapshot(address, "").parent / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else ""
    return commit if commit and _snapshot(address, commit).is_dir() else None


def _snapshot(address: Address, commit: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{address.repo.replace('/', '--')}" / "snapshots" / commit


def _names_in(snapshot: Path) -> list[str]:
    return sorted(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file())


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        content = None
    return content if isinstance(content, dict) else {}
