"""Copies data sets in buckets to a folder of this host, so that they can be read at random."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from focalnet_jax.data.card import CARD, DESCRIPTION, read_card
from focalnet_jax.errors import UserError
from focalnet_jax.storage.address import is_bucket, refuse_mistyped, to_path
from focalnet_jax.storage.cached import CachedFolder, cached_folder, copy_of, errors_name_bucket
from focalnet_jax.storage.files import check_bucket

_KEY = "data.cache"
_DESCRIBED = re.compile(rf"((?:[^/]+/){{0,2}}){re.escape(DESCRIPTION)}")
_METADATA = (".json", ".txt")  # suffixes of the files that describe a data set


def staged_data_set(address: str, cache: str) -> CachedFolder:
    """Returns the local copy of a TFDS data set in a bucket. It contains the metadata, but not yet the examples.

    Args:
      address: folder of the data set, or one of the two folders above it.
      cache: parent folder of all copies.

    Raises:
      UserError: there is no data set, there are several, permission is missing, or the copy cannot be written.
      RunFailedError: the bucket does not answer.
    """
    given = to_path(address, "data.path")
    names = cached_folder(given, cache, _KEY).list()
    if not names:
        check_bucket(given, "data.path")
        raise UserError(f"there is nothing at data.path={given}; expected a prepared data set: check the path")
    found = [match[1].rstrip("/") for match in map(_DESCRIBED.fullmatch, names) if match]
    found = [""] if "" in found else [name for name in found if "/" in name] or found
    if len(found) != 1:
        held = (
            f"several ({', '.join(sorted(found)[:5])})"
            if found
            else "none; if data.prepare was interrupted, repeat its command"
        )
        raise UserError(f"expected one prepared data set (with {DESCRIPTION}) in {given}, found {held}")
    copy = cached_folder(given / found[0] if found[0] else given, cache, _KEY)
    files = [name for name in copy.list(recursive=not found[0]) if "/" not in name and name.endswith(_METADATA)]
    copy.fetch(files)
    if CARD in files:
        with errors_name_bucket(copy):
            copy.expect(read_card(copy.folder / CARD).get("sha256", {}))
    return copy


def need_shards(copy: CachedFolder, examples: Mapping[str, int]) -> None:
    """Starts to copy the files of a split in the background.

    Args:
      copy: the copy of the data set.
      examples: number of examples in each file.

    Raises:
      UserError: a file is missing, or the disk is too small.
    """
    absent = [name for name in examples if name not in copy.objects]
    if absent:
        more = f" and {len(absent) - 1} more files" if len(absent) > 1 else ""
        raise UserError(f"{copy.address} lacks the file {absent[0]}{more}: upload the data set again")
    copy.need(examples)


@contextmanager
def local_folder(
    path: str | None,
    cache: str,
    within: str | Callable[[Collection[str]], str | None],
    expected: str = "SPLIT/CLASS/*.jpg",
) -> Iterator[str | None]:
    """Context manager that yields a local path unchanged or, for an address, the path of a local copy of a folder.

    Errors raised in the context name the address.

    Args:
      path: local path, address of a folder in a bucket, or None, which is yielded unchanged.
      cache: parent folder of all copies.
      within: name of the subfolder to copy, or "." for everything; or a function that receives the names of all
        subfolders and returns one of these, or None to copy nothing. The other subfolders are created without files.
      expected: the expected contents, for messages.

    Raises:
      UserError: the address is mistyped, there is no such folder, permission is missing, or the disk is too small.
      RunFailedError: the bucket does not answer.
    """
    if path is not None:
        refuse_mistyped(path, "data.path")
    if path is None or not is_bucket(path):
        yield path
        return
    address = to_path(path, "data.path")
    copy = cached_folder(address, cache, _KEY)
    names = copy.list(recursive=False)
    if not names:
        check_bucket(address, "data.path")
        raise UserError(f"there is nothing at data.path={address}; expected {expected}: check the path")
    folders = [name.rstrip("/") for name in names if name.endswith("/")]
    chosen = within(folders) if callable(within) else within
    if chosen == "." or chosen in folders:
        copy.fetch_all("" if chosen == "." else chosen, examples=1)
    with errors_name_bucket(copy):
        yield str(copy.folder)


@contextmanager
def local_shards(path: str | None, cache: str, files: str) -> Iterator[str | None]:
    """Context manager that yields a local path unchanged or, for an address, the path of a local copy of all files.

    Errors raised in the context name the address.

    Args:
      path: local path, address of a file or folder in a bucket, or None, which is yielded unchanged.
      cache: parent folder of all copies.
      files: the expected files, for messages, such as "Parquet files".

    Raises:
      UserError: there is nothing at the address, it is a pattern, permission is missing, or the disk is too small.
      RunFailedError: the bucket does not answer.
    """
    if path is None or not is_bucket(path):
        yield path
        return
    if set("*?[") & set(path):
        raise UserError(f"data.path={path}: patterns in buckets are not supported; give one file, or the folder")
    address = to_path(path, "data.path")
    copy, local = copy_of(address, cache, _KEY)
    if local is None:
        check_bucket(address, "data.path")
        raise UserError(
            f"there is nothing at data.path={address}; expected {files}: one file or a folder, not a pattern; check "
            "the path"
        )
    with errors_name_bucket(copy):
        yield str(local)
