"""Imports huggingface_hub when an address needs it, and converts its errors to messages of one line."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.hub.address import Address

_OLDEST = 1  # oldest supported major version
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}  # of the cache
# Disk errors, which `run_command` explains. Other errors with an errno come from connections.
_OF_THE_DISK = {*_NOT_WRITABLE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENAMETOOLONG}
# hf_xet, which transfers large files, also raises `ConnectionError` if the server answers with an error status.
_XET_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})\b")
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN to a token"


class UnreachableError(RunFailedError):
    """Raised if the hub does not answer or is temporarily unavailable. Files in the cache can still be used."""


def import_hub(address: Address) -> ModuleType:
    """Returns the module huggingface_hub. Raises `UserError` with the install command if it is missing or too old."""
    try:
        import huggingface_hub
        from huggingface_hub import constants
    except ImportError as error:
        raise UserError(f"{address} needs huggingface_hub: pip install 'focalnet_jax[hub]'") from error
    version = huggingface_hub.__version__
    if int(version.partition(".")[0]) < _OLDEST:
        raise UserError(f"{address} needs a newer huggingface_hub than {version}: pip install 'focalnet_jax[hub]'")
    endpoint = constants.ENDPOINT
    if not endpoint.startswith(("http://", "https://")):
        raise UserError(
            f"HF_ENDPOINT is {endpoint!r}; expected a URL with http:// or https://. "
            f"Did you mean 'https://{endpoint.rpartition('//')[2]}'?"
        )
    return huggingface_hub


@contextmanager
def explained(address: Address, *, writing: bool = False) -> Iterator[None]:
    """Context manager that converts errors of huggingface_hub and its HTTP client to messages of one line.

    Args:
      address: the address that is read or written, for messages.
      writing: whether the repository is written.

    Raises:
      UserError: the repository, revision or file does not exist, or the user has no permission to read or write it; or,
        when reading, the cache cannot be written.
      UnreachableError: the hub cannot be reached or is temporarily unavailable.
      RunFailedError: the download or upload failed for another reason.
      OSError: another error of the disk, which is not converted.
    """
    try:
        yield
    except (UserError, RunFailedError):
        raise
    except Exception as error:  # the HTTP client depends on the version of the library
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            if error.errno in _NOT_WRITABLE and not writing:
                raise _not_writable(error) from error
            raise
        raise _in_one_line(error, address, writing) from error


def _not_writable(error: OSError) -> UserError:
    """Returns the error for a cache that cannot be written. Its message names HF_HOME, which sets another folder."""
    from huggingface_hub import constants

    where = error.filename or constants.HF_HUB_CACHE
    return UserError(
        f"cannot write to the hub's cache, {where}: {error.strerror}; set HF_HOME to a folder that you can write"
    )


def _in_one_line(error: Exception, address: Address, writing: bool) -> Exception:
    from huggingface_hub import constants, errors, get_token

    hub, repo = constants.ENDPOINT, address.root
    chain = list(_causes(error))
    status = next(filter(None, map(_status, chain)), None)

    def found(*kinds: type[Exception]) -> bool:
        return any(isinstance(each, kinds) for each in chain)

    if found(errors.GatedRepoError):
        return UserError(f"{repo} is gated: accept its conditions on {hub}/{address.page} and {_LOG_IN}")
    if found(errors.DisabledRepoError):
        return UserError(f"{repo} is disabled on the hub; use another repository")
    if found(errors.RevisionNotFoundError):
        return UserError(f"{repo} has no revision {address.revision or 'main'!r}; expected a branch, a tag or a commit")
    if found(errors.RemoteEntryNotFoundError):
        return UserError(f"{address}: there is no such file in the repository")
    if status == 401 and get_token() and not found(errors.RepositoryNotFoundError):
        return UserError(f"{address}: the hub rejects the token (401), because it is wrong or has expired: {_LOG_IN}")
    if found(errors.RepositoryNotFoundError) or (status == 404 and not writing):
        return UserError(
            f"{repo} does not exist on {hub}, or is private: check the name, or for a private one {_LOG_IN}"
        )
    if status == 401:
        return UserError(f"{address}: the hub requires a login (401): {_LOG_IN}")
    if status == 403:
        action = "write" if writing else "read"
        return UserError(
            f"{address}: the token has no permission to {action} this repository (403): {_LOG_IN} of an account with "
            "this permission"
        )
    if status == 429:
        return UnreachableError(
            f"{address}: the hub has received too many requests (429); start again in a few minutes, or use a token, "
            "which allows more requests"
        )
    if status is not None and status >= 500:
        return UnreachableError(f"{address}: the hub has an internal error ({status}); start again later")
    if status is not None:
        return RunFailedError(f"{address}: the hub answered {status}: {_first_line(error)}")
    if found(errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return UnreachableError(
            f"{address} is not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set; unset it to download"
        )
    if found(errors.FileMetadataError):
        return RunFailedError(
            f"{address}: {hub} does not answer like the Hugging Face Hub; check HF_ENDPOINT and the proxy"
        )
    if "Consistency check" in str(error) or _names(chain, "RemoteProtocolError", "ReadError", "WriteError"):
        return RunFailedError(f"{address}: the connection to {hub} was interrupted; start again")
    if _names(chain, "ConnectError", "ConnectTimeout", "ReadTimeout", "TimeoutException", "ProxyError") or isinstance(
        error, ConnectionError
    ):
        return UnreachableError(f"{address}: {hub} cannot be reached ({_first_line(chain[-1])}); check the connection")
    return RunFailedError(f"{address}: {type(error).__name__}: {_first_line(error)}")


def _status(error: BaseException) -> int | None:
    """Returns the HTTP status of the response that caused an error, or None if there was no response."""
    if (response := getattr(error, "response", None)) is not None:
        return response.status_code
    match = _XET_STATUS.search(str(error)) if isinstance(error, ConnectionError) else None
    return int(match[1]) if match else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and its chain of causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _names(chain: list[BaseException], *names: str) -> bool:
    """Returns whether an error in `chain` has a class or base class with one of these names.

    Names are compared, because httpx, which defines these classes, is not imported.
    """
    return any(kind.__name__ in names for each in chain for kind in type(each).__mro__)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
