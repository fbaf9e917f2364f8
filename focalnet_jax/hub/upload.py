"""Uploads files to a repository on the hub in one commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.hub.address import Address, parse_address
from focalnet_jax.hub.library import explained, import_hub


@dataclass(frozen=True)
class Repository:
    """The current state of a repository on the hub."""

    commit: str
    files: frozenset[str]
    private: bool


def parse_destination(given: str) -> Address:
    """Returns the address of the repository for an upload. Raises `UserError` if it contains a revision or a file."""
    address = parse_address(given)
    if address.revision or address.path:
        raise UserError(
            f"{given} contains a revision or a file; expected a repository to upload to: give hf://{address.repo}"
        )
    return address


def find_repository(address: Address) -> Repository | None:
    """Returns the state of a repository, or None if it does not exist or the user has no access to it.

    Raises the errors of `library.explained`.
    """
    hub = import_hub(address)
    with explained(address, writing=True):
        try:
            info = hub.HfApi(library_name="focalnet_jax").model_info(address.repo)
        except hub.errors.GatedRepoError:
            raise
        except hub.errors.RepositoryNotFoundError:
            return None
    return Repository(info.sha, frozenset(file.rfilename for file in info.siblings or ()), bool(info.private))


def upload(
    address: Address, folder: Path, names: Sequence[str], message: str, *, parent: str | None, private: bool
) -> str:
    """Uploads files as one commit and returns the URL of the commit's page.

    Args:
      address: the repository.
      folder: the folder that contains the files.
      names: names of the files, equal in the folder and in the repository.
      message: the commit message.
      parent: the commit of the repository that the user has seen, or None to create the repository.
      private: whether a new repository is private; not used for an existing repository.

    Raises:
      UserError: the user has no permission to write the repository.
      RunFailedError: the hub cannot be reached, the upload failed, or the repository has changed since `parent`.
    """
    hub = import_hub(address)
    api = hub.HfApi(library_name="focalnet_jax")
    with explained(address, writing=True):
        if parent is None:
            api.create_repo(address.repo, private=private)
    try:
        with explained(address, writing=True):
            files = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name)) for name in names]
            commit = api.create_commit(address.repo, files, commit_message=message, parent_commit=parent)
    except (UserError, RunFailedError) as error:
        if parent is not None:
            raise
        raise type(error)(f"{error}; the new repository {address.repo} exists now and is empty") from error
    return str(commit.commit_url)
