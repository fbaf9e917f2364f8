"""Inspects the first files of a tar, to find whether it contains classes, images, tars or WebDataset samples."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath

from focalnet_jax.data.prepare.containers import Container, files
from focalnet_jax.data.prepare.images import sample_key
from focalnet_jax.data.prepare.naming import has_image_suffix, is_tar
from focalnet_jax.data.prepare.samples import has_label

_MOST = 512  # number of files inspected
_MOST_READ = 32  # .json files are read only among this number of first files
_SKIPPED = ".xml"  # Kaggle's tar begins with half a million annotations
_LABELS = (".cls", ".json", ".txt", ".cls.txt", ".label")


@dataclass(frozen=True)
class TarContents:
    """Names of the first files in a tar, by type."""

    tars: tuple[str, ...]
    images: tuple[str, ...]
    labels: frozenset[str]  # suffixes of label files that belong to an image, such as .cls
    has_labels: bool  # whether an image has a .cls, or a .json that contains a label
    flat: bool  # whether all images are in the same folder, or in none

    @property
    def is_shard(self) -> bool:
        """Whether the tar is a WebDataset shard.

        A shard contains .cls files or .json files with labels. If its images are not in class folders, any label file
        is enough.
        """
        return self.has_labels or (bool(self.labels) and self.flat)


def inspect_tar(container: Container) -> TarContents:
    """Returns the contents of the first files of a tar.

    Raises:
      UserError: the tar is damaged or unsafe.
    """
    names, in_json = [], set()
    seen = (file for file in files(container, Counter()) if not file.name.lower().endswith(_SKIPPED))
    for file in itertools.islice(seen, _MOST):
        names.append(file.name)
        if file.name.lower().endswith(".json") and len(names) <= _MOST_READ and has_label(file):
            in_json.add(sample_key(file.name))
    images = [name for name in names if has_image_suffix(name)]
    keys = {sample_key(name) for name in images}
    labels = {
        suffix for name in names for suffix in _LABELS if name.lower().endswith(suffix) and sample_key(name) in keys
    }
    parents = {str(PurePosixPath(name).parent) for name in images}
    return TarContents(
        tuple(name for name in names if is_tar(name)),
        tuple(images),
        frozenset(labels),
        ".cls" in labels or bool(in_json & keys),
        len(parents) <= 1,
    )
