"""Indexes a container of any kind."""

from __future__ import annotations

from pathlib import Path

from focalnet_jax.data.prepare.containers import Container
from focalnet_jax.data.prepare.images import index_images
from focalnet_jax.data.prepare.index import Index
from focalnet_jax.data.prepare.labels import Labels
from focalnet_jax.data.prepare.rows import index_rows
from focalnet_jax.data.prepare.samples import index_samples

_READERS = {"images": index_images, "samples": index_samples, "rows": index_rows}


def index_container(container: Container, labels: Labels | None = None, spool: Path | None = None) -> Index:
    """Returns the index of a container.

    Args:
      container: a folder, a tar or a Parquet file.
      labels: interpretation of the container's labels; None if the classes are folder names.
      spool: file for the images of a container that cannot be read in place. It is created only when complete.

    Raises:
      UserError: the container is damaged, unsafe or of a different kind, or a file cannot be read.
    """
    read = _READERS[container.holds]
    if not container.spooled or spool is None:
        return read(container, labels or Labels(), None)
    # Not written with `system.files.write_whole`, because the images may not fit in memory.
    partial = spool.with_suffix(".spooling")
    with partial.open("wb") as file:
        index = read(container, labels or Labels(), file)
    partial.replace(spool)
    return index
