"""Opens data sources by their names in configs."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ml_collections import ConfigDict, FrozenConfigDict

from focalnet_jax.data.digits_source import DigitsSource
from focalnet_jax.data.folder_source import FolderSource
from focalnet_jax.data.source import Source
from focalnet_jax.data.staged import local_folder, local_shards
from focalnet_jax.errors import UserError, suggest
from focalnet_jax.hub.address import is_address
from focalnet_jax.storage.address import CACHE, is_bucket, to_path

_FILES = {"parquet": "Parquet files", "webdataset": "WebDataset shards"}  # in messages
SHARDED = tuple(_FILES)
SOURCES = ("digits", "folder", "tfds", *SHARDED)


@dataclass(frozen=True)
class SourceOptions:
    """Keys of a config's `data` section that only some sources use."""

    cache: str = CACHE
    held_out: float = 0.0
    image_column: str | None = None
    label_column: str | None = None

    @classmethod
    def of(cls, data: ConfigDict | FrozenConfigDict) -> SourceOptions:
        """Returns the options in a config's `data` section. Missing keys have their defaults."""
        return cls(**{key: data[key] for key in cls.__dataclass_fields__ if key in data})


def open_source(name: str, path: str | None, split: str, options: SourceOptions = SourceOptions()) -> Source:
    """Opens a split of a data source.

    Args:
      name: one of `SOURCES`.
      path: directory of the data, which may be in a bucket; for tfds also the name of a data set; for parquet and
        webdataset also a file, a local pattern or an address hf://datasets/...; None for digits.
      split: name of the split.
      options: other keys that the source uses.

    Raises:
      UserError: the source is unknown or cannot be opened.
    """
    if path is not None and is_address(path):
        if name not in SHARDED:
            raise UserError(
                f"data.path={path} is on the Hugging Face Hub: set --config.data.source={' or '.join(SHARDED)}, or "
                "prepare it with python -m focalnet_jax.data.prepare"
            )
    elif path and not (name in SHARDED and is_bucket(path)):
        to_path(path, "data.path")  # raises the errors of addresses
    if name == "digits":
        if path is not None:
            raise UserError(
                f"data.path={path} is not used with data.source=digits: add --config.data.source="
                f"{' or '.join(SOURCES[1:])}"
            )
        return DigitsSource(split)
    if name == "folder":
        with local_folder(path, options.cache, split) as folder:
            source = FolderSource(folder, split)
        if source.note:
            print(source.note, file=sys.stderr)
        return source
    if name == "tfds":
        from focalnet_jax.data.tfds_source import TfdsSource  # imported here because only this source needs TFDS

        return TfdsSource(path, split, options.cache)
    if name in SHARDED:
        from focalnet_jax.data.sharded_source import ShardedSource  # imported here because others do not need it

        columns = options.image_column, options.label_column
        with local_shards(path, options.cache, _FILES[name]) as local:
            return ShardedSource(name, local, split, held_out=options.held_out, columns=columns, cache=options.cache)
    raise UserError(f"unknown data.source {name!r}; expected one of {', '.join(SOURCES)}.{suggest(name, SOURCES)}")
