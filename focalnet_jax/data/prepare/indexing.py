"""Indexes containers of any kind, and stores the indices in files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from focalnet_jax import __version__
from focalnet_jax.data.prepare.containers import Container
from focalnet_jax.data.prepare.images import index_images
from focalnet_jax.data.prepare.index import Index
from focalnet_jax.data.prepare.kinds import Sources
from focalnet_jax.data.prepare.labels import Labels
from focalnet_jax.data.prepare.rows import index_rows
from focalnet_jax.data.prepare.samples import index_samples
from focalnet_jax.errors import UserError, shown_size

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


def index_files(sources: Sources, work: Path) -> list[Path]:
    """Returns the path of each container's index. The file name has a hash of everything that determines the index."""
    common = [sources.classes, asdict(sources.labels), __version__]
    shared = hashlib.sha256(json.dumps(common).encode())
    paths = []
    for number, container in enumerate(sources.containers):
        digest = shared.copy()
        status = os.stat(container.path)  # a new file may have the size and time of the old one
        digest.update(json.dumps([asdict(container), status.st_ino, status.st_ctime_ns]).encode())
        paths.append(work / f"{number}-{digest.hexdigest()[:24]}.npy")
    return paths


def labels_for(container: Container, sources: Sources) -> Labels:
    """Returns the interpretation of a container's labels; `Labels()` for training images in folders and tars."""
    return sources.labels if container.holds != "images" or container.split != "train" else Labels()


def refuse_small_disk(containers: Sequence[Container], folder: Path) -> None:
    """Raises `UserError` if the images of containers that cannot be read in place do not fit on the disk of `folder`.

    The images have about the size of the containers, because encoded images hardly compress.
    """
    copied = sum(container.size or 0 for container in containers if container.spooled)
    free = shutil.disk_usage(folder).free
    if copied > free:
        raise UserError(
            f"images of {shown_size(copied)} in Parquet files or compressed archives must be copied to {folder}, "
            f"which has only {shown_size(free)} of free space: use a larger disk"
        )


def save_index(container: Container, path: Path, labels: Labels) -> None:
    """Writes the index of a container to `path`, and images that cannot be read in place next to it."""
    index_container(container, labels, spool_of(path)).save(path)


def spool_of(index: Path) -> Path:
    """Returns the spool file next to an index, for the images of a container that cannot be read in place."""
    return index.with_suffix(".spool")
