"""Addresses of runs and weights: local paths, and `gs://BUCKET/NAME` in Google Cloud Storage."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from focalnet_jax.errors import UserError, suggest
from focalnet_jax.system.files import ADDRESS

if TYPE_CHECKING:
    from etils import epath

    AnyPath: TypeAlias = Path | epath.Path
else:
    AnyPath = Path

CACHE = "~/.cache/focalnet_jax/data"  # default folder of local copies of data in buckets, see `storage/cached.py`
_SCHEMES = ("gs",)
# `gs:BUCKET/NAME`, `gs//BUCKET/NAME`, `gs:/BUCKET/NAME`, and the pages of objects in the browser.
_MISTYPED = re.compile(
    r"(?:gs(?::/*|//+)|https?:/+(?:storage\.googleapis\.com|storage\.cloud\.google\.com"
    r"|console\.cloud\.google\.com/storage/browser(?:/_details)?)/+)(?P<rest>[^/?#][^?#]*)(?:[?#].*)?",
    re.IGNORECASE | re.DOTALL,
)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
# A request without progress for this time is repeated. By default, gcsfs and TensorStore would wait forever.
STALL_SECONDS = 30
_CONNECT_SECONDS = 15
_REQUEST_SECONDS = 600  # time-out of a whole request of gcsfs, including uploads
_EXTRA = "pip install 'focalnet_jax[gcs]'"


def is_bucket(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path or address is `gs://...`, also after pathlib has removed a slash."""
    return str(path).startswith("gs:/")


def refuse_mistyped(address: str | os.PathLike[str], flag: str = "") -> None:
    """Raises `UserError` for a mistyped address, or the URL of an object in a bucket, unless it is an existing path.

    The message contains the address to give instead. `gs:/BUCKET/NAME` is accepted as a `Path`, because pathlib removes
    a slash, but is an error as a string.
    """
    text = str(address)
    match = _MISTYPED.fullmatch(text)
    if match is None or re.match("gs://[^/]", text) or (is_bucket(text) and not isinstance(address, str)):
        return
    if is_bucket(text) or not os.path.exists(text):
        bucket, _, name = match["rest"][:200].partition("/")
        given = f"{flag} {text[:200]}".strip()
        raise UserError(
            f"{given}: expected a local path or gs://BUCKET/NAME. Did you mean gs://{bucket}/{name or 'NAME'}?"
        )


def to_path(address: str | os.PathLike[str], flag: str = "") -> AnyPath:
    """Returns a local path as `pathlib.Path`, and an address `gs://BUCKET/NAME` as `etils.epath.Path`.

    Both types have the methods of `pathlib.Path`, but in a bucket there is no append, no atomic rename and no folder
    without files: see `storage.files` for the operations that differ.

    Args:
      address: the path or address.
      flag: the flag or function that received the address, for messages.

    Raises:
      UserError: the address is mistyped, the scheme is not supported, the name of the bucket is not valid, or gcsfs is
        not installed.
    """
    refuse_mistyped(address, flag)
    match = ADDRESS.fullmatch(str(address))
    if match is None or (os.path.exists(address) and not is_bucket(address)):
        return Path(address)
    scheme, rest = match["scheme"].lower(), match["rest"]
    given = f"{flag} {scheme}://{rest[:200]}".strip()
    if scheme == "s3":
        raise UserError(
            f"{given}: S3 is not supported; mount the bucket (for example with mount-s3) and give the folder, or use "
            "gs://"
        )
    if scheme == "file":
        raise UserError(f"{given} is a URL; give the path /{rest[:200]}")
    if scheme not in _SCHEMES:
        raise UserError(f"{given}: expected a local path or gs://BUCKET/NAME.{suggest(scheme, _SCHEMES)}")
    bucket, _, name = rest.partition("/")
    if not _BUCKET.fullmatch(bucket) or not name.strip("/"):
        raise UserError(
            f"{given}: expected gs://BUCKET/NAME, where BUCKET is a valid bucket name and NAME is a folder or file"
        )
    if found := sorted(set("*?[]#") & set(name)) or not name.isprintable():
        patterns = isinstance(found, list)
        shown = f"{' '.join(found)}, which listings treat as a pattern" if patterns else "unprintable characters"
        raise UserError(f"{given}: expected a name without {shown}")
    if any(part in ("", ".", "..") for part in name.rstrip("/").split("/")):
        raise UserError(f"{given}: expected no empty part and no . or .. between slashes")
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f"{given} needs gcsfs: {_EXTRA}")
    _configure()
    from etils import epath

    return epath.Path(f"gs://{bucket}/{name.rstrip('/')}")


def object_in(folder: str, name: str) -> AnyPath:
    """Returns the address of the object `name` in a folder. Unlike in `to_path`, the name may have any characters."""
    _configure()
    from etils import epath

    return epath.Path(folder) / name


def absolute(path: AnyPath) -> AnyPath:
    """Returns an absolute local path; an address is returned unchanged."""
    return path if is_bucket(path) else path.absolute()


def resolved(path: AnyPath) -> AnyPath:
    """Returns an absolute local path with links resolved; an address is returned unchanged."""
    return path if is_bucket(path) else path.resolve()


@functools.cache
def _configure() -> None:
    """Configures the libraries that read and write buckets, before their first request.

    The cache of listings is off, because TensorStore and other hosts write without gcsfs's knowledge. gcsfs's support
    of buckets with a hierarchical namespace is off: before many operations, it sends further requests to gRPC's port,
    and repeats them for a minute if they fail. Such buckets need it only to rename folders.
    """
    os.environ.setdefault("EPATH_USE_TF", "false")  # TensorFlow's file objects lack methods of Python's
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(STALL_SECONDS))
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
    os.environ.setdefault("TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS", str(_CONNECT_SECONDS))
    import aiohttp
    import fsspec

    from focalnet_jax.storage.gcs import PatientFileSystem

    timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS, sock_connect=_CONNECT_SECONDS, sock_read=STALL_SECONDS)
    for name in ("gs", "gcs"):
        conf = fsspec.config.conf.setdefault(name, {})
        conf["use_listings_cache"] = False
        conf.setdefault("requests_timeout", timeout)
        fsspec.register_implementation(name, PatientFileSystem, clobber=True)
    for name in ("gcsfs", "fsspec", "google.auth"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # these errors are also raised
