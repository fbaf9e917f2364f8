"""Prepares a data set from its index to its card; resumes after an interruption."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from focalnet_jax import __version__
from focalnet_jax.data.prepare import accounting
from focalnet_jax.data.prepare.containers import Container
from focalnet_jax.data.prepare.index import Index
from focalnet_jax.data.prepare.indexing import index_container
from focalnet_jax.data.prepare.kinds import SourceKind, Sources
from focalnet_jax.data.prepare.labels import Labels
from focalnet_jax.data.prepare.naming import SPLITS
from focalnet_jax.data.prepare.plan import Shard, plan_shards
from focalnet_jax.data.prepare.shards import Job, features, report_file, spool_of, write_shard
from focalnet_jax.data.prepare.workers import ProgressPrinter, run_all
from focalnet_jax.data.sources import fingerprint_of
from focalnet_jax.data.tfds_source import CARD
from focalnet_jax.errors import UserError
from focalnet_jax.system.files import write_whole

VERSION = "1.0.0"
MANIFEST = "manifest.jsonl"
_WORK = ".prepare"
REQUEST = "asked.json"
Reports = Sequence[tuple[Shard, dict[str, Any]]]  # report by shard, see `write_shard`


@dataclass(frozen=True)
class PrepareOptions:
    """Options that, with the sources, determine the result."""

    name: str
    held_out: float | None  # share of training images moved to the split val; None for the default of the kind
    shard_bytes: int  # approximate size of a shard


def prepare(kind: SourceKind, sources: Sources, out: Path, options: PrepareOptions, processes: int) -> Path:
    """Prepares the data set in `out`/NAME/1.0.0, or resumes its preparation; returns that folder.

    Raises:
      UserError: the sources are unreadable or invalid, `out` holds another data set, or the disk is full.
      RunFailedError: a worker process died.
    """
    if not tfds.core.naming.is_valid_dataset_name(options.name):
        raise UserError(f"--name {options.name}: expected lower-case letters, digits and _, beginning with a letter")
    folder = out / options.name / VERSION
    with working_folder(folder) as work:
        for line in (*accounting.describe_sources(sources.containers), *sources.notes):
            print(line, flush=True)
        indices = _index_all(sources, work, processes)
        request = _request_of(sources, indices, options)
        if is_finished(folder, request):
            return folder
        check_begun(work / REQUEST, request)
        accounting.check_listed(sources, indices)
        accounting.refuse_repeated(sources, indices)
        classes = sources.classes or accounting.found_class_names(sources, indices)
        accounting.refuse_shifted(indices, classes)
        held_out = _held_out(kind, options, indices)
        shards = plan_shards(indices, classes, held_out=held_out, shard_bytes=options.shard_bytes)
        accounting.refuse_no_examples(sources, indices, classes, {shard.split for shard in shards})
        write_whole(work / REQUEST, json.dumps(request))
        paths = tuple(_index_file(work, *numbered) for numbered in enumerate(sources.containers))
        job = Job(options.name, classes, sources.containers, paths, folder)
        reports = _write_all(job, shards, work, processes)
        _finish(job, reports, indices, request)
    return folder


@contextmanager
def working_folder(folder: Path) -> Iterator[Path]:
    """Yields the folder for intermediate files of preparing `folder`, which is removed at the end, not by a kill.

    Raises:
      UserError: it cannot be created or written, or another process prepares the same data set.
    """
    work = folder / _WORK
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
                if not (work / REQUEST).exists():  # nothing was started: remove the folders created for it
                    shutil.rmtree(work)
                    for above in made:
                        above.rmdir()
                raise
            shutil.rmtree(work)
    except BrokenPipeError:  # the reader of stdout is gone
        raise
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; choose another --out or free disk space"
        ) from error


def is_finished(folder: Path, request: Mapping[str, Any]) -> bool:
    """Returns whether `folder` holds the requested data set; raises `UserError` if it holds another one."""
    card = folder / CARD
    if not card.is_file():
        return False
    _refuse_other(card, json.loads(card.read_text())["asked"], request)
    print(f"finished: {folder} already holds this data set")
    return True


def check_begun(path: Path, request: Mapping[str, Any]) -> None:
    """Raises `UserError` if the preparation to resume was started with another request."""
    if path.is_file():
        _refuse_other(path, json.loads(path.read_text()), request)


def _request_of(sources: Sources, indices: Sequence[Index], options: PrepareOptions) -> dict[str, Any]:
    """Returns the request, for comparison when resuming; it covers the content of the sources but not their paths."""
    digest = hashlib.sha256(json.dumps([sources.classes, asdict(sources.labels)]).encode())
    for container, index in zip(sources.containers, indices, strict=True):
        place = f"{container.class_name} {container.split} {container.size} {container.time}"
        digest.update(f"{place} {index.digest()}".encode())
    images = sum(map(len, indices))
    return {**asdict(options), "images": images, "sources": digest.hexdigest()[:12]}


def _refuse_other(path: Path, begun: Mapping[str, Any], request: Mapping[str, Any]) -> None:
    differing = [
        f"{key} was {begun.get(key)}, now {value}" for key, value in request.items() if begun.get(key) != value
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
            f"--held-out {options.held_out}: the sources already have a split val, which must not be mixed with others"
        )
    return options.held_out or 0.0 if official or options.held_out is not None else kind.held_out


def _index_file(work: Path, number: int, container: Container) -> Path:
    return work / f"{number}-{container.offset}-{container.size}-{container.time}.npy"


def _index_all(sources: Sources, work: Path, processes: int) -> list[Index]:
    """Returns the index of every container; existing indices of tars are reused, folders are always indexed anew."""
    paths = [_index_file(work, *numbered) for numbered in enumerate(sources.containers)]
    missing = [
        (container, path, sources.labels if container.holds != "images" or container.split != "train" else Labels())
        for container, path in zip(sources.containers, paths, strict=True)
        if container.size is None or not path.is_file()
    ]
    if missing:
        progress = ProgressPrinter("indexed", len(missing))
        run_all(_index_one, missing, min(processes, len(missing)), lambda done, _: progress(done, 0))
    return [Index.load(path) for path in paths]


def _index_one(container: Container, path: Path, labels: Labels) -> None:
    index_container(container, labels, spool_of(path)).save(path)


def _write_all(job: Job, shards: Sequence[Shard], work: Path, processes: int) -> Reports:
    missing = [shard for shard in shards if not (work / report_file(shard)).is_file()]
    if len(missing) < len(shards):
        print(f"resuming: {len(shards) - len(missing)} of {len(shards)} shards are written")
    if missing:
        progress = ProgressPrinter("shards", len(missing))
        run_all(write_shard, [(job, shard, work) for shard in missing], min(processes, len(missing)), progress)
    return [(shard, json.loads((work / report_file(shard)).read_text())) for shard in shards]


def _finish(job: Job, reports: Reports, indices: Sequence[Index], request: Mapping[str, Any]) -> None:
    """Writes the manifest, the TFDS metadata and, last, the card."""
    rows = [
        {"split": shard.split, "file": name, "status": status, "reason": reason}
        for shard, report in reports
        for status in ("rejected", "normalized")
        for name, reason in report[status]
    ]
    for split, name, status, reason in accounting.left_out(job.containers, indices, job.classes):
        rows.append({"split": split, "file": name, "status": status, "reason": reason})
    write_whole(job.out / MANIFEST, "".join(json.dumps(row) + "\n" for row in rows))
    write_description(job.out, job.name, VERSION, features(job.classes), _lengths(reports))
    counts = {"files": accounting.count_files(indices), "left_out": dict(accounting.count_left_out(indices))}
    card = _card(job, reports, rows) | counts | {"asked": dict(request)}
    write_whole(job.out / CARD, json.dumps(card, indent=1) + "\n")
    _print_card(job.out, card, rows)


def write_description(
    out: Path,
    name: str,
    version: str,
    form: tfds.features.FeaturesDict,
    lengths: Mapping[str, tuple[list[int], int]],
) -> None:
    """Writes the TFDS metadata that makes a folder of shards a data set.

    Args:
      out: the folder of the shards.
      name: name of the data set.
      version: its version.
      form: the features of an example.
      lengths: number of examples per shard, and total bytes, by split.
    """
    template = tfds.core.ShardedFileTemplate(
        dataset_name=name,
        data_dir=out,
        filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    infos = [
        tfds.core.SplitInfo(
            name=split, shard_lengths=shards, num_bytes=size, filename_template=template.replace(split=split)
        )
        for split, (shards, size) in lengths.items()
    ]
    supervised = ("image", "label") if "label" in form else None
    tfds.folder_dataset.write_metadata(
        data_dir=str(out),
        features=form,
        split_infos=infos,
        version=version,
        supervised_keys=supervised,
        check_data=False,
    )


def _lengths(reports: Reports) -> dict[str, tuple[list[int], int]]:
    splits = sorted({shard.split for shard, _ in reports}, key=SPLITS.index)
    of = {split: [report for shard, report in reports if shard.split == split] for split in splits}
    return {
        split: ([report["examples"] for report in found], sum(report["bytes"] for report in found))
        for split, found in of.items()
    }


def _card(job: Job, reports: Reports, rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Returns the card: counts by split and class, and the fingerprint of the data set."""
    counts = {split: Counter() for split in _lengths(reports)}
    for shard, report in reports:
        counts[shard.split].update({int(label): count for label, count in report["classes"].items()})
    digests = (f"{shard.split} {shard.number} {report['digest']}" for shard, report in reports)
    return {
        "name": job.name,
        "fingerprint": fingerprint_of(digests),
        "splits": {
            split: {"examples": sum(shards), "bytes": size, "shards": len(shards)}
            for split, (shards, size) in _lengths(reports).items()
        },
        "rejected": sum(row["status"] == "rejected" for row in rows),
        "normalized": sum(row["status"] == "normalized" for row in rows),
        "classes": {
            name: {split: found[label] for split, found in counts.items()} for label, name in enumerate(job.classes)
        },
        "version": __version__,
    }


def _print_card(out: Path, card: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> None:
    for split, of in card["splits"].items():
        print(f"{split:<6}{of['examples']:,} images, {of['bytes'] / 1e6:,.1f} MB, {of['shards']} shards")
    empty = [name for name, counts in card["classes"].items() if not counts.get("train")]
    print(f"{len(card['classes'])} classes, {len(empty)} without training images{_some(empty)}")
    left = card["left_out"]
    examples = sum(of["examples"] for of in card["splits"].values())
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(left.items(), key=lambda item: -item[1]))
    print(
        f"{card['files']:,} files seen: {examples:,} images, {card['rejected']:,} rejected, "
        f"{sum(left.values()):,} left out{f' ({kinds})' if kinds else ''}"
    )
    reasons = Counter(row["reason"] for row in rows if row["status"] == "rejected")
    for reason, count in reasons.most_common(5):
        print(f"  rejected {count:,}: {reason}")
    print(f"{card['rejected']} images rejected, {card['normalized']} normalized: {out / MANIFEST}")
    print(f"fingerprint {card['fingerprint']}; train with --config.data.source=tfds --config.data.path={out}")


def _some(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else ""
