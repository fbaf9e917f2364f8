"""Prepares a data set of images with classes, from indexing the sources to writing the card; can be resumed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from focalnet_jax.data.card import CARD, read_card
from focalnet_jax.data.prepare import accounting
from focalnet_jax.data.prepare.buckets import WORK, Upload
from focalnet_jax.data.prepare.classes import checked_classes
from focalnet_jax.data.prepare.index import Index
from focalnet_jax.data.prepare.indexing import index_files, labels_for, refuse_small_disk, save_index
from focalnet_jax.data.prepare.kinds import KINDS, SourceKind, Sources
from focalnet_jax.data.prepare.metadata import VERSION, Reports, write_metadata
from focalnet_jax.data.prepare.naming import SPLITS
from focalnet_jax.data.prepare.plan import Shard, plan_shards
from focalnet_jax.data.prepare.shards import Job, report_file, write_shard
from focalnet_jax.data.prepare.workers import ProgressPrinter, run_all
from focalnet_jax.errors import UserError
from focalnet_jax.system.files import write_whole

REQUEST = "asked.json"


@dataclass(frozen=True)
class PrepareOptions:
    """Options that determine the prepared data set, in addition to its sources."""

    name: str
    held_out: float | None  # fraction of training images moved to the split val; None for the default of the kind
    shard_bytes: int  # approximate size of a shard in bytes


def prepare(
    kind: SourceKind, sources: Sources, out: Path, options: PrepareOptions, processes: int, address: str = ""
) -> Path:
    """Prepares a data set, or resumes its preparation.

    Args:
      kind: kind of the sources.
      sources: the sources.
      out: parent folder of the data set.
      options: options that determine the result.
      processes: number of worker processes.
      address: parent folder in a bucket to which the data set is moved from `out`; "" to leave it in `out`.

    Returns:
      The local folder of the data set, `out`/NAME/1.0.0.

    Raises:
      UserError: the sources are unreadable or invalid, `out` contains a different data set, another process prepares
        the same data set, or the disk is full.
      RunFailedError: a worker process died, or the bucket does not answer.
    """
    if not tfds.core.naming.is_valid_dataset_name(options.name):
        raise UserError(f"--name {options.name}: expected lower-case letters, digits and _, beginning with a letter")
    folder = out / options.name / VERSION
    upload = Upload(f"{address}/{options.name}/{VERSION}", folder) if address else None
    with working_folder(folder) as work, contextlib.nullcontext() if upload is None else upload.held():
        for line in (*accounting.describe_sources(sources.containers), *sources.notes):
            print(line, flush=True)
        paths = index_files(sources, work)
        indices = _index_all(sources, paths, processes)
        request = _request_of(sources, indices, options)
        classes = checked_classes(kind, sources, indices)
        if is_finished(folder, request, upload):
            return folder
        check_begun(work / REQUEST, request)
        held_out = _held_out(kind, options, indices)
        shards = plan_shards(indices, classes, held_out=held_out, shard_bytes=options.shard_bytes)
        accounting.refuse_no_examples(sources, indices, classes, {shard.split for shard in shards})
        if kind == KINDS["imagenet1k"] and not any(shard.split == "val" for shard in shards):
            raise UserError(
                "the sources contain no validation images: add them to --source, or give --held-out FRACTION to move "
                "training images to val"
            )
        for line in accounting.describe_missing(sources, indices):
            print(line, flush=True)
        write_request(work / REQUEST, request, upload)
        job = Job(options.name, classes, sources.containers, tuple(paths), folder, upload)
        reports = write_all(write_shard, job, shards, work, processes)
        card = write_metadata(job, reports, indices, request)
        for line in accounting.describe_incomplete(kind, card):
            print(line)
    return folder


@contextlib.contextmanager
def working_folder(folder: Path) -> Iterator[Path]:
    """Context manager that creates a folder in `folder` for intermediate files, and gives its path.

    The folder is removed after a complete preparation, and if a `UserError` is raised before the request is written.
    Otherwise, it is kept, so that the preparation can be resumed.

    Raises:
      UserError: another process prepares the same data set, or, also in the context, a file cannot be read or written.
    """
    work = folder / WORK
    made = [above for above in work.parents if not above.exists()]
    try:
        work.mkdir(parents=True, exist_ok=True)
        with (work / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(f"another process is preparing {folder}; wait for it or stop it") from error
            try:
                yield work
            except UserError:
                if not (work / REQUEST).exists():  # nothing to resume: also remove the folders created above
                    shutil.rmtree(work)
                    with contextlib.suppress(OSError):  # another program may have written to them
                        for above in made:
                            above.rmdir()
                raise
            shutil.rmtree(work)
    except BrokenPipeError:  # the process that reads stdout has ended
        raise
    except OSError as error:
        if isinstance(error.filename, str) and not _is_output(Path(error.filename), folder):
            raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; choose another --out or free disk space"
        ) from error


def _is_output(path: Path, folder: Path) -> bool:
    """Returns whether a path is the folder of the data set, or is inside or above it."""
    path, folder = path.absolute(), folder.absolute()
    return path == folder or folder in path.parents or path in folder.parents


def write_request(path: Path, request: Mapping[str, Any], upload: Upload | None) -> None:
    """Writes the request to `path`, and to the bucket if `upload` is given. Resuming requires the same request."""
    write_whole(path, json.dumps(request))
    if upload is not None:
        upload.copy(path)


def is_finished(folder: Path, request: Mapping[str, Any], upload: Upload | None = None) -> bool:
    """Returns whether `folder` contains the complete requested data set, and prints a line if it does.

    Raises:
      UserError: `folder` contains a different data set.
    """
    card = folder / CARD
    if not card.is_file():
        return False
    _refuse_other(card, read_card(card, asked=dict)["asked"], request)
    print(f"finished: {folder if upload is None else upload.address} already contains this data set")
    return True


def check_begun(path: Path, request: Mapping[str, Any]) -> None:
    """Raises `UserError` if the preparation to resume was started with a different request."""
    if path.is_file():
        _refuse_other(path, json.loads(path.read_text()), request)


def _request_of(sources: Sources, indices: Sequence[Index], options: PrepareOptions) -> dict[str, Any]:
    """Returns the request, which is stored and compared when a preparation is resumed.

    It contains the options, the number of files and rows in the indices, and a hash of the class list, the options for
    labels, and the names, sizes, times, splits and classes of these files. The paths of the sources do not change it.
    """
    labels = asdict(sources.labels)
    if not labels["ordered"]:  # keeps the digest of data sets that were prepared before this field existed
        del labels["ordered"]
    digest = hashlib.sha256(json.dumps([sources.classes, labels]).encode())
    for container, index in zip(sources.containers, indices, strict=True):
        split = "train" if container.direct and container.split is None else container.split
        properties = f"{container.class_name} {split} {container.size} {container.time}"
        digest.update(f"{properties} {index.digest()}".encode())
    images = sum(map(len, indices))
    return {**asdict(options), "images": images, "sources": digest.hexdigest()[:12]}


def _refuse_other(path: Path, begun: Mapping[str, Any], request: Mapping[str, Any]) -> None:
    """Raises `UserError` if two requests differ; ignores keys that `begun` lacks because an older version wrote it."""
    differing = [
        f"{key} was {begun[key]}, now {value}" for key, value in request.items() if begun.get(key, value) != value
    ]
    if differing:
        raise UserError(
            f"{path} belongs to another preparation: {'; '.join(differing)}. Give the same sources and options, or "
            "another --out or --name"
        )


def _held_out(kind: SourceKind, options: PrepareOptions, indices: Sequence[Index]) -> float:
    official = any((index.members["split"] == SPLITS.index("val")).any() for index in indices)
    if official and options.held_out:
        raise UserError(
            f"--held-out {options.held_out}: the sources already have a split val, to which no training images may be "
            "added; remove the flag"
        )
    return options.held_out or 0.0 if official or options.held_out is not None else kind.held_out


def _index_all(sources: Sources, paths: Sequence[Path], processes: int) -> list[Index]:
    """Returns the index of every container.

    Existing indices of files are reused, but folders are always indexed again.
    """
    missing = [
        (container, path, labels_for(container, sources))
        for container, path in zip(sources.containers, paths, strict=True)
        if container.size is None or not path.is_file()
    ]
    if missing:
        refuse_small_disk([container for container, *_ in missing], paths[0].parent)
        progress = ProgressPrinter("indexed", len(missing))
        run_all(save_index, missing, min(processes, len(missing)), lambda done, _: progress(done, 0))
    return [Index.load(path) for path in paths]


def write_all(
    write: Callable[[Any, Shard, Path], int], job: Any, shards: Sequence[Shard], work: Path, processes: int
) -> Reports:
    """Writes the shards that have no report yet, and returns each shard with its report.

    Args:
      write: function that is called as `write(job, shard, work)` in a worker process. It writes the shard and its
        report, and returns the number of bytes read.
      job: data that `write` needs. Both must be picklable.
      shards: the shards.
      work: folder of the reports.
      processes: number of worker processes.
    """
    missing = [shard for shard in shards if not (work / report_file(shard)).is_file()]
    if len(missing) < len(shards):
        print(f"resuming: {len(shards) - len(missing)} of {len(shards)} shards are already written")
    if missing:
        progress = ProgressPrinter("shards", len(missing))
        run_all(write, [(job, shard, work) for shard in missing], min(processes, len(missing)), progress)
    return [(shard, json.loads((work / report_file(shard)).read_text())) for shard in shards]
