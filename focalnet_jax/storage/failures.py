"""Errors of requests to buckets: the reason in one line, and whether the user or the service causes it."""

from __future__ import annotations

import errno
import os
import re

from focalnet_jax.errors import RunFailedError, UserError

_LOGIN = "run: gcloud auth application-default login"
_ROLE = "give this account the role Storage Object User"
# gcsfs raises OSError("Forbidden: ..."), and TensorStore ValueError("PERMISSION_DENIED: ... Unauthorized ...").
_FORBIDDEN = re.compile(r"\bForbidden\b|PERMISSION_DENIED")
_UNAUTHORIZED = re.compile(r"\bUnauthorized\b|UNAUTHENTICATED|Anonymous caller|invalid_grant")

_DETAILS = re.compile(r" \[(?:http_response_body|tensorstore_spec|source locations)=")  # start of TensorStore's details


class StorageError(OSError):
    """Raised if a request to a bucket fails; `strerror` is one line."""


def storage_error(error: BaseException, path: str | os.PathLike[str]) -> StorageError:
    """Returns the error of a failed request; its errno is EACCES (no permission), ENOENT (no such bucket) or EIO."""
    if isinstance(error, StorageError):
        return error
    text = _DETAILS.split(_described(error))[0]
    code = _status(error) or (401 if _without_credentials(error) else None)
    if code is None and (_UNAUTHORIZED.search(text) or _FORBIDDEN.search(text)):
        code = 401 if _UNAUTHORIZED.search(text) else 403
    short = text if len(text) <= 160 else f"{text[:80]} ... {text[-75:]}"
    if code == 401:
        return StorageError(errno.EACCES, f"no valid credentials ({short}); {_LOGIN}", str(path))
    if code == 403:
        return StorageError(errno.EACCES, f"no permission ({short}); {_ROLE}", str(path))
    if code == 404:
        bucket = str(path).removeprefix("gs://").split("/")[0]
        return StorageError(errno.ENOENT, f"there is no bucket {bucket}; create it first", str(path))
    return StorageError(errno.EIO, short, str(path))


def unreadable(path: str | os.PathLike[str], error: OSError) -> UserError | RunFailedError:
    """Returns the error of a command that could not read a file of a bucket: `RunFailedError` for an outage.

    The error is a `UserError` if a permission or the bucket is missing, and for files on a disk.
    """
    text = f"{path}: cannot be read: {error.strerror}"
    if isinstance(error, StorageError) and error.errno == errno.EIO:
        return RunFailedError(f"{text}; nothing was changed: start the same command again")
    return UserError(text)


def _described(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, TimeoutError):  # its text is empty or only the address
        return f"no answer in time{f' ({text})' if text else ''}"
    return text or type(error).__name__


def _status(error: BaseException) -> int | None:
    """Returns the HTTP status in an error, or None: `code` of gcsfs and google.api_core, `status` of aiohttp."""
    for value in (getattr(error, name, None) for name in ("code", "status", "status_code")):
        if isinstance(value, int | str) and str(value).isdecimal():
            return int(value)
    answer = getattr(error, "response", None)
    return _status(answer) if answer is not None else None


def _without_credentials(error: BaseException) -> bool:
    """Returns whether google.auth has no credentials, or credentials that have expired or were withdrawn.

    A token server that cannot be reached is an outage.
    """
    from google.auth import exceptions

    if isinstance(error, exceptions.RefreshError):
        return not (error.retryable or isinstance(error.__cause__, exceptions.TransportError))
    return isinstance(error, exceptions.GoogleAuthError) and not isinstance(error, exceptions.TransportError)
