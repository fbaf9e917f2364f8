"""Reads WebDataset shards and Parquet files directly, without preparing them first.

The files are indexed once, with the same checks as in `data.prepare`, and the indices are cached. Shards that are not
compressed are read in place; images in Parquet files and compressed shards cannot be read by position, so they are
copied to the cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from focalnet_jax import __version__
from focalnet_jax.data.decode import Picture
from focalnet_jax.data.prepare.accounting import left_out
from focalnet_jax.data.prepare.classes import checked_classes
from focalnet_jax.data.prepare.index import Index
from focalnet_jax.data.prepare.indexing import index_files, labels_for, refuse_small_disk, save_index, spool_of
from focalnet_jax.data.prepare.kinds import KINDS, Sources, find_sources
from focalnet_jax.data.prepare.naming import SPLITS
from focalnet_jax.data.prepare.plan import plan_shards
from focalnet_jax.data.prepare.workers import ProgressPrinter
from focalnet_jax.data.source import Label, fingerprint_of
from focalnet_jax.data.split_names import SPLIT_NAMES
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.storage.address import CACHE

_INDICES = "indices"  # folder in the cache
_ONE_SHARD = 2**62  # bytes
# Parts of messages of `data.prepare`, and their replacements, which name config keys instead of flags.
_IN_A_CONFIG = (
    ("--source ", "data.path="),
    ("--image-column ", "--config.data.image_column="),
    ("--label-column ", "--config.data.label_column="),
    ("--held-out FRACTION", "--config.data.held_out=FRACTION"),
    ("give --classes FILE", "prepare it with python -m focalnet_jax.data.prepare and --classes FILE"),
    ("--classes FILE gives", "python -m focalnet_jax.data.prepare with --classes FILE gives"),
)


@dataclass(frozen=True)
class _Indexed:
    """The shards or Parquet files at a path, which are called containers, with their indices."""

    sources: Sources
    paths: tuple[Path, ...]  # index file of each container
    indices: tuple[Index, ...]
    classes: tuple[str, ...]


class ShardedSource:
    """A split of a data set in WebDataset shards or Parquet files.

    Training reads the same batches as from the same data prepared by `data.prepare`, because the order is the same.

    Args:
      kind: "parquet" or "webdataset".
      path: a folder, a file, a pattern, or an address hf://datasets/ORG/NAME[@REVISION][/FOLDER].
      split: name of the split.
      held_out: fraction of the training images that form the split val, if the files contain no such split.
      columns: Parquet columns of images and of labels, or None to find them by type and name.
      cache: folder for the indices.

    Attributes:
      labels: labels of all examples, `[N]` int32.
      description: a note on the images that are held out, or an empty string.

    Raises:
      UserError: there are no such files or no such split, the labels are invalid, or the cache cannot be written.
      RunFailedError: a download failed.
    """

    def __init__(
        self,
        kind: str,
        path: str | None,
        split: str,
        *,
        held_out: float = 0.0,
        columns: tuple[str | None, str | None] = (None, None),
        cache: str = CACHE,
    ):
        if not path or not split:
            raise UserError(
                f"data.source={kind} needs data.path and a split: give a folder, or an address hf://datasets/ORG/NAME"
            )
        with _for_configs():
            indexed = _indexed(kind, path, columns, cache)
        official = any((index.members["split"] == SPLITS.index("val")).any() for index in indexed.indices)
        held_out = 0.0 if official else held_out
        shards = plan_shards(indexed.indices, indexed.classes, held_out=held_out, shard_bytes=_ONE_SHARD)
        members = {shard.split: shard.members for shard in shards}
        chosen = SPLIT_NAMES.get(split, split)
        if chosen not in members:
            todo = "set --config.data.train_split and --config.data.eval_split to splits that it contains"
            if chosen == "val":
                todo = f"hold out a fifth of the images with --config.data.held_out=0.2, or {todo}"
            raise UserError(f"{path} has no split {split!r}; it contains {', '.join(members) or 'no images'}: {todo}")
        self.class_names = indexed.classes
        self.description = ""
        if held_out:
            self.description = (
                f"{len(members['val'])} of {sum(map(len, members.values()))} images are held out for evaluation, "
                f"chosen by their names (data.held_out={held_out}), because there is no split val"
            )
        self._indices = indexed.paths
        self._titles = [container.title for container in indexed.sources.containers]
        self._rows = kind == "parquet"
        self._files = [
            str(spool_of(index)) if container.spooled else container.path
            for container, index in zip(indexed.sources.containers, indexed.paths, strict=True)
        ]
        self._members = members[chosen]  # [N, 2]: number of the container, index of the member in it
        self._where, self.labels = _read_members(indexed, self._members)
        digests = (index.digest() for index in indexed.indices)
        self.fingerprint = fingerprint_of([kind, chosen, str(held_out), *self.class_names, *digests])

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> tuple[Picture, Label]:
        offset, size = self._where[index].tolist()
        file = self._files[self._members[index, 0]]
        try:
            with open(file, "rb", buffering=0) as opened:
                content = os.pread(opened.fileno(), size, offset)
        except FileNotFoundError as error:
            raise RunFailedError(f"{file} was removed while it was read; start again") from error
        return content, self.labels[index]

    def name(self, index: int) -> str:
        """Returns the file name of an example, with its shard, or with its Parquet file and row."""
        container, member = self._members[index].tolist()
        found = Index.load(self._indices[container]).members[member]
        row = f", row {found['name'].decode()}" if self._rows else ""
        return f"{found['file'].decode(errors='replace')} ({self._titles[container]}{row})"


def _read_members(indexed: _Indexed, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns offset and size in bytes, `[N, 2]` int64, and the label, `[N]` int32, of each of `members`, `[N, 2]`."""
    where, labels = np.zeros((len(members), 2), np.int64), np.zeros(len(members), np.int32)
    outputs = {name.encode(): label for label, name in enumerate(indexed.classes)}
    order = np.argsort(members[:, 0], kind="stable")
    ends = np.searchsorted(members[order, 0], np.arange(len(indexed.indices)), side="right")
    for container, rows in enumerate(np.split(order, ends[:-1])):
        found = indexed.indices[container].members[members[rows, 1]]
        where[rows, 0], where[rows, 1] = found["offset"], found["size"]
        labels[rows] = [outputs[name] for name in found["class_name"].tolist()]
    return where, labels


@functools.lru_cache(maxsize=8)
def _indexed(kind: str, path: str, columns: tuple[str | None, str | None], cache: str) -> _Indexed:
    """Returns the files at a path with their indices, which are read from the cache if the files are unchanged."""
    image_column, label_column = columns
    sources = find_sources(kind, [Path(path)], image_column=image_column, label_column=label_column)
    for note in sources.notes:
        print(_with_config_keys(note))
    names = [os.path.abspath(container.path) for container in sources.containers]
    digest = hashlib.sha256(json.dumps([__version__, kind, columns, *names]).encode()).hexdigest()[:16]
    with _cache_folder(Path(os.path.expanduser(cache), _INDICES, digest)) as folder:
        paths = index_files(sources, folder)
        _index_missing(sources, paths, folder)
    indices = tuple(map(Index.load, paths))
    classes = checked_classes(KINDS[kind], sources, indices)
    reasons = Counter(reason for *_, reason in left_out(sources.containers, indices, classes))
    if reasons:
        counted = ", ".join(f"{count} ({reason})" for reason, count in reasons.most_common())
        print(f"{path}: left out {reasons.total()} images: {counted}")
    return _Indexed(sources, tuple(paths), indices, classes)


@contextlib.contextmanager
def _cache_folder(folder: Path) -> Iterator[Path]:
    """Context manager that creates a folder of the cache and locks it, so that only one process per host indexes.

    Raises:
      UserError: the folder cannot be written, the disk is full, or a file of the data cannot be read.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("waiting for another process, which indexes the same files", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield folder
    except OSError as error:
        if isinstance(error.filename, str) and folder not in (Path(error.filename), *Path(error.filename).parents):
            raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
        raise UserError(
            f"cannot write to the cache data.cache={folder.parents[1]}: {error.strerror}; set --config.data.cache to a "
            "folder that you can write, on a disk with free space"
        ) from error


def _index_missing(sources: Sources, paths: Sequence[Path], folder: Path) -> None:
    """Indexes the containers without an index in the cache, and removes files of earlier versions of the containers."""
    current = {path.stem for path in paths}
    for file in folder.iterdir():
        if file.name != "lock" and file.stem not in current:
            file.unlink()
    missing = [
        (container, path) for container, path in zip(sources.containers, paths, strict=True) if not path.is_file()
    ]
    refuse_small_disk([container for container, _ in missing], folder)
    progress = ProgressPrinter("indexed", len(missing))
    for done, (container, path) in enumerate(missing, 1):
        save_index(container, path, labels_for(container, sources))
        progress(done, container.size or 0)


@contextlib.contextmanager
def _for_configs() -> Iterator[None]:
    """Context manager that redirects stdout to stderr, and replaces flags of `data.prepare` by config keys.

    Flags are replaced in the redirected text and in messages of `UserError`.
    """
    try:
        with contextlib.redirect_stdout(_Notes()):
            yield
    except UserError as error:
        raise UserError(_with_config_keys(str(error))) from error


class _Notes(io.TextIOBase):
    """Stream that writes to stderr, with config keys instead of flags."""

    def write(self, text: str) -> int:
        """Writes text."""
        sys.stderr.write(_with_config_keys(text))
        return len(text)

    def flush(self) -> None:
        """Flushes stderr."""
        sys.stderr.flush()


def _with_config_keys(message: str) -> str:
    """Returns a message of `data.prepare` with config keys instead of flags."""
    for flag, key in _IN_A_CONFIG:
        message = message.replace(flag, key)
    return message
