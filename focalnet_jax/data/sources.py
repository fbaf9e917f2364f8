"""Opens data sources by their names in configs."""

from __future__ import annotations

import sys

from focalnet_jax.data.digits_source import DigitsSource
from focalnet_jax.data.folder_source import FolderSource
from focalnet_jax.data.source import Source
from focalnet_jax.errors import UserError, suggest

SOURCES = ("digits", "folder", "tfds")


def open_source(name: str, path: str | None, split: str) -> Source:
    """Opens a split of a data source.

    Args:
      name: one of `SOURCES`.
      path: directory of the data; for tfds also the name of a data set; None for digits.
      split: name of the split.

    Raises:
      UserError: the source is unknown or cannot be opened.
    """
    if name == "digits":
        if path is not None:
            raise UserError(
                f"data.path={path} is not used with data.source=digits: add --config.data.source=folder or tfds"
            )
        return DigitsSource(split)
    if name == "folder":
        source = FolderSource(path, split)
        if source.note:
            print(source.note, file=sys.stderr)
        return source
    if name == "tfds":
        from focalnet_jax.data.tfds_source import TfdsSource  # imported here because only this source needs TFDS

        return TfdsSource(path, split)
    raise UserError(f"unknown data.source {name!r}; expected {' or '.join(SOURCES)}.{suggest(name, SOURCES)}")
