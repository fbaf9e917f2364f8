"""The preparation of a data set from its index to its card; stopped anywhere, it goes on from there."""

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

import numpy as np
import tensorflow_datasets as tfds

from focalnet_jax.data.prepare.containers import SPLITS, Container, Index, index_container
from focalnet_jax.data.prepare.kinds import Sources
from focalnet_jax.data.prepare.plan import Shard, make_plan
from focalnet_jax.data.prepare.shards import Job, features, report_file, write_shard
from focalnet_jax.data.prepare.workers import Progress, run_all
from focalnet_jax.data.tfds_source import CARD
from focalnet_jax.errors import UserError
from focalnet_jax.version import __version__

VERSION = "1.0.0"
MANIFEST = "manifest.jsonl"
_WORK = ".prepare"
_ASKED = "asked.json"
_UNCLEAR = "no class: its name says another than its folder, or the label file does not have it"
Reports = Sequence[tuple[Shard, dict[str, Any]]]  # what was written to each shard


@dataclass(frozen=True)
class Options:
    """What decides the result beside the sources."""

    name: str
    held_out: float  # share of the training images that become the split val
    shard_bytes: int


def prepare(sources: Sources, out: Path, options: Options, processes: int) -> Path:
    """Prepares `out`/NAME/1.0.0, or goes on where that was stopped; returns it.

    Raises:
      UserError: sources that cannot be read or make no sense, or another data set in `out`.
      RunFailedError: a process died.
    """
    if not tfds.core.naming.is_valid_dataset_name(options.name):
        raise UserError(f"--name {options.name}: expected lower case letters, digits and _, a letter first")
    folder = out / options.name / VERSION
    work = folder / _WORK
    asked = _asked(sources, options)
    if (folder / CARD).is_file() and not work.exists():
        _refuse_other(folder / CARD, json.loads((folder / CARD).read_text())["asked"], asked)
        print(f"finished: {folder} holds this data set already")
        return folder
    try:
        for part in ("index", "reports"):
            (work / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
    with _locked(work):
        if (work / _ASKED).is_file():
            _refuse_other(work / _ASKED, json.loads((work / _ASKED).read_text()), asked)
        else:
            (work / _ASKED).write_text(json.dumps(asked))
        indices = _index_all(sources, work / "index", processes)
        classes = sources.classes or _names_found(indices)
        shards = make_plan(indices, classes, held_out=options.held_out, shard_bytes=options.shard_bytes)
        if not any(shard.split == "train" for shard in shards):
            raise UserError(f"no image of a known class was found in {sources.containers[0].path}")
        job = Job(options.name, classes, sources.containers, work / "index", folder)
        _write_all(job, shards, work / "reports", processes)
        reports = [(shard, json.loads((work / "reports" / report_file(shard)).read_text())) for shard in shards]
        unknown = _unknown(sources.containers, indices, classes)
        _finish(job, reports, unknown, asked)
        shutil.rmtree(work)
    return folder


def _asked(sources: Sources, options: Options) -> dict[str, Any]:
    """What was asked for, to be compared with what was begun; names of places may change, sizes may not."""
    containers = [
        (container.class_name, container.split, container.offset, container.size) for container in sources.containers
    ]
    listed = json.dumps([containers, sources.classes, sources.labels]).encode()
    return {**asdict(options), "containers": len(containers), "sources": hashlib.sha256(listed).hexdigest()[:12]}


def _refuse_other(path: Path, begun: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differing = [
        f"{key} was {begun.get(key)} and is {value}" for key, value in asked.items() if begun.get(key) != value
    ]
    if differing:
        raise UserError(
            f"{path} is of another preparation: {'; '.join(differing)}. Give the same sources and options, or another "
            "--out or --name"
        )


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Refuses a second preparation of the same data set at the same time."""
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another process prepares {work.parent}; wait for it or stop it") from error
        yield


def _index_all(sources: Sources, folder: Path, processes: int) -> list[Index]:
    """The index of every container, from disk where it was made before."""
    missing = [
        (container, folder / f"{number}.npz", sources.labels)
        for number, container in enumerate(sources.containers)
        if not (folder / f"{number}.npz").is_file()
    ]
    if missing:
        progress = Progress("indexed", len(missing))
        run_all(_index_one, missing, min(processes, len(missing)), lambda done, _: progress(done, 0))
    return [Index.load(folder / f"{number}.npz") for number in range(len(sources.containers))]


def _index_one(container: Container, path: Path, labels: dict[str, str] | None) -> None:
    index_container(container, labels).save(path)


def _names_found(indices: Sequence[Index]) -> tuple[str, ...]:
    """The classes of the training images, sorted: the order every reader of a folder gives them."""
    found = {name for index in indices for name in np.unique(index.classes[index.splits == SPLITS.index("train")])}
    return tuple(sorted(name.decode() for name in found if name))


def _write_all(job: Job, shards: Sequence[Shard], reports: Path, processes: int) -> None:
    missing = [shard for shard in shards if not (reports / report_file(shard)).is_file()]
    if len(missing) < len(shards):
        print(f"going on: {len(shards) - len(missing)} of {len(shards)} shards are written")
    if missing:
        progress = Progress("shards", len(missing))
        run_all(write_shard, [(job, shard, reports) for shard in missing], min(processes, len(missing)), progress)


def _unknown(
    containers: Sequence[Container], indices: Sequence[Index], classes: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Split, name and class of the images of no known class."""
    known = np.array([name.encode() for name in classes])
    return [
        (
            SPLITS[index.splits[place]],
            f"{container.class_name or ''}/{index.names[place].decode(errors='replace')}".lstrip("/"),
            index.classes[place].decode(),
        )
        for container, index in zip(containers, indices, strict=True)
        for place in np.flatnonzero(~np.isin(index.classes, known))
    ]


def _finish(job: Job, reports: Reports, unknown: Sequence[tuple[str, str, str]], asked: Mapping[str, Any]) -> None:
    """Writes the manifest, TFDS's description and, last, the card."""
    rows = [
        {"split": shard.split, "file": name, "status": status, "reason": reason}
        for shard, report in reports
        for status in ("rejected", "normalized")
        for name, reason in report[status]
    ]
    for split, name, of in unknown:
        reason = f"class {of} is not in the list" if of else _UNCLEAR
        rows.append({"split": split, "file": name, "status": "rejected", "reason": reason})
    (job.out / MANIFEST).write_text("".join(json.dumps(row) + "\n" for row in rows))
    describe(job.out, job.name, features(job.classes), _lengths(reports))
    card = _card(job, reports, rows) | {"asked": dict(asked)}
    (job.out / CARD).write_text(json.dumps(card, indent=1) + "\n")
    _print_card(job.out, card)


def describe(
    out: Path, name: str, form: tfds.features.FeaturesDict, lengths: Mapping[str, tuple[list[int], int]]
) -> None:
    """TFDS's own files, which make a folder of shards a data set; `lengths` are examples a shard, and bytes."""
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
        version=VERSION,
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
    """What a reader wants to know of the data set, and what tells it from any other."""
    counts = {split: Counter() for split in _lengths(reports)}
    for shard, report in reports:
        counts[shard.split].update({int(label): count for label, count in report["classes"].items()})
    digests = "".join(f"{shard.split} {shard.number} {report['digest']}\n" for shard, report in reports)
    return {
        "name": job.name,
        "fingerprint": hashlib.sha256(digests.encode()).hexdigest()[:12],
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


def _print_card(out: Path, card: Mapping[str, Any]) -> None:
    for split, of in card["splits"].items():
        print(f"{split:<6}{of['examples']:,} images, {of['bytes'] / 1e6:,.1f} MB, {of['shards']} shards")
    empty = [name for name, counts in card["classes"].items() if not counts.get("train")]
    print(f"{len(card['classes'])} classes, {len(empty)} without training images{_some(empty)}")
    print(f"{card['rejected']} images rejected, {card['normalized']} normalized: {out / MANIFEST}")
    print(f"fingerprint {card['fingerprint']}; train with --config.data.source=tfds --config.data.path={out}")


def _some(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else ""
