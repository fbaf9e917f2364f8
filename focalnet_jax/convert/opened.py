"""Opens weights at a path: the tensors of a file, or a checkpoint of this package."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from focalnet_jax.checkpoint.steps import find_checkpoint
from focalnet_jax.convert.directories import choose_file
from focalnet_jax.convert.files import is_checkpoint, read_tensors
from focalnet_jax.convert.huggingface import CONFIG, PREPROCESSOR
from focalnet_jax.convert.tensors import Tensors
from focalnet_jax.hub.download import local_path, origin
from focalnet_jax.storage.address import AnyPath, is_bucket, refuse_mistyped, to_path
from focalnet_jax.storage.staging import local_copy


@dataclass(frozen=True)
class Opened:
    """The tensors of weights files, from which a model is not selected yet."""

    path: Path  # the weights file, an index of shards, or a directory
    folder: Path  # folder of the accompanying config files
    content: Tensors
    which: str | None  # selection among several weights in `content`
    notes: tuple[str, ...]  # origin of the file, for the user
    decisions: tuple[str, ...]  # notes on the choice of the file


@dataclass(frozen=True)
class Step:
    """A checkpoint of this package."""

    path: AnyPath


def open_weights(path: str | Path, which: str | None = None) -> Opened | Step:
    """Opens the weights at `path`. Their values are read later, on access.

    Args:
      path: path of the weights, see `read_weights`.
      which: selection among several weights, see `read_weights`.

    Raises:
      UserError: there are no readable weights.
      RunFailedError: the hub or a bucket does not answer, or a download failed.
    """
    fetched = origin(path)
    refuse_mistyped(path)
    path = to_path(path) if is_bucket(path) else Path(os.path.expanduser(local_path(path)))
    if is_checkpoint(path):
        return Step(find_checkpoint(str(path)))
    if is_bucket(path):
        path = local_copy(path)
    folder = path if path.is_dir() else folder_of(path)
    path, which, decisions = choose_file(path, which)
    return Opened(path, folder, read_tensors(path), which, tuple(fetched), decisions)


def folder_of(file: Path) -> Path:
    """Returns the folder with the config files of `file`.

    For a symbolic link in a folder without config files, this is the folder of the link's target.
    """
    own = file.parent
    described = (own / CONFIG).is_file() or (own / PREPROCESSOR).is_file()
    return file.resolve().parent if file.is_symlink() and not described else own
