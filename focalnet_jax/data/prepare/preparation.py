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

import tensorflow_datasets as tfds

from focalnet_jax import __version__
from focalnet_jax.data.prepare import accounting
from focalnet_jax.data.prepare.containers import Container
from focalnet_jax.data.prepare.index import Index
from focalnet_jax.data.prepare.indexing import index_container
from focalnet_jax.data.prepare.kinds import Kind, Sources
from focalnet_jax.data.prepare.labels import Labels
from focalnet_jax.data.prepare.naming import SPLITS
from focalnet_jax.data.prepare.plan import Shard, make_plan
from focalnet_jax.data.prepare.shards import Job, features, report_file, spool_of, write_shard, write_whole
from focalnet_jax.data.prepare.workers import Progress, run_all
from focalnet_jax.data.sources import fingerprint_of
from focalnet_jax.data.tfds_source import CARD
from focalnet_jax.errors import UserError

VERSION = "1.0.0"
MANIFEST = "manifest.jsonl"
_WORK = ".prepare"
ASKED = "asked.json"
Reports = Sequence[tuple[Shard, dict[str, Any]]]  # what was written to each shard


@dataclass(frozen=True)
class Options:
    """What decides the result beside the sources."""

    name: str
    held_out: float | None  # share of the training images for the split val; None: the kind's, where it has none
    shard_bytes: int


def prepare(kind: Kind, sources: Sources, out: Path, options: Options, processes: int) -> Path:
    """Prepares `out`/NAME/1.0.0, or goes on where that was stopped; returns it.

    Raises:
      UserError: sources that cannot be read or make no sense, another data set in `out`, or no room there.
      RunFailedError: a process died.
    """
    if not tfds.core.naming.is_valid_dataset_name(options.name):
        raise UserError(f"--name {options.name}: expected lower case letters, digits and _, a letter first")
    folder = out / options.name / VERSION
    with working_folder(folder) as work:
        for line in (*accounting.describe(sources.containers), *sources.notes):
            print(line, flush=True)
        indices = _index_all(sources, work, processes)
        asked = _asked(sources, indices, options)
        if is_finished(folder, asked):
            return folder
        check_begun(work / ASKED, asked)
        accounting.check_labels(sources, indices)
        accounting.refuse_repeated(sources, indices)
        classes = sources.classes or accounting.names_found(sources, indices)
        accounting.refuse_shifted(indices, classes)
        held_out = _held_out(kind, options, indices)
        shards = make_plan(indices, classes, held_out=held_out, shard_bytes=options.shard_bytes)
        accounting.refuse_no_examples(sources, indices, classes, {shard.split for shard in shards})
        write_whole(work / ASKED, json.dumps(asked))
        paths = tuple(_index_file(work, *numbered) for numbered in enumerate(sources.containers))
        job = Job(options.name, classes, sources.containers, paths, folder)
        reports = _write_all(job, shards, work, processes)
        _finish(job, reports, indices, asked)
    return folder


@contextmanager
def working_folder(folder: Path) -> Iterator[Path]:
    """Where the preparation of `folder` keeps what it has done: gone with the end, there after a kill.

    Raises:
      UserError: it cannot be made or written, or another process prepares the same.
    """
    work = folder / _WORK
    made = [above for above in work.parents if not above.exists()]
    try:
        work.mkdir(parents=True, exist_ok=True)
        with (work / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(f"another process prepares {folder}; wait for it or stop it") from error
            try:
                yield work
            except UserError:
                if not (work / ASKED).exists():  # nothing was begun: what was made for it goes
                    shutil.rmtree(work)
                    for above in made:
                        above.rmdir()
                raise
            shutil.rmtree(work)
    except BrokenPipeError:  # of the program that reads what is printed
        raise
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another --out or make room") from error


def is_finished(folder: Path, asked: Mapping[str, Any]) -> bool:
    """Whether `folder` holds what was asked for; `UserError` where it holds another data set."""
    card = folder / CARD
    if not card.is_file():
        return False
    _refuse_other(card, json.loads(card.read_text())["asked"], asked)
    print(f"finished: {folder} holds this data set already")
    return True


def check_begun(path: Path, asked: Mapping[str, Any]) -> None:
    """Refuses to go on, `UserError`, where something else was begun."""
    if path.is_file():
        _refuse_other(path, json.loads(path.read_text()), asked)


def _asked(sources: Sources, indices: Sequence[Index], options: Options) -> dict[str, Any]:
    """What was asked for, to be compared with what was begun; where the sources lie may change, what they hold not."""
    digest = hashlib.sha256(json.dumps([sources.classes, asdict(sources.labels)]).encode())
    for container, index in zip(sources.containers, indices, strict=True):
        place = f"{container.class_name} {container.split} {container.size} {container.time}"
        digest.update(f"{place} {index.digest()}".encode())
    images = sum(map(len, indices))
    return {**asdict(options), "images": images, "sources": digest.hexdigest()[:12]}


def _refuse_other(path: Path, begun: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differing = [
        f"{key} was {begun.get(key)} and is {value}" for key, value in asked.items() if begun.get(key) != value
    ]
    if differing:
        raise UserError(
            f"{path} is of another preparation: {'; '.join(differing)}. Give the same sources and options, or another "
            "--out or --name"
        )


def _held_out(kind: Kind, options: Options, indices: Sequence[Index]) -> float:
    official = any((index.members["split"] == SPLITS.index("val")).any() for index in indices)
    if official and options.held_out:
        raise UserError(
            f"--held-out {options.held_out}: the sources have a split val already, which must not be mixed with others"
        )
    return options.held_out or 0.0 if official or options.held_out is not None else kind.held_out


def _index_file(work: Path, number: int, container: Container) -> Path:
    return work / f"{number}-{container.offset}-{container.size}-{container.time}.npy"


def _index_all(sources: Sources, work: Path, processes: int) -> list[Index]:
    """The index of every container: of tars from disk where it was made before, of folders always what is there now."""
    paths = [_index_file(work, *numbered) for numbered in enumerate(sources.containers)]
    missing = [
        (container, path, sources.labels if container.holds != "images" or container.split != "train" else Labels())
        for container, path in zip(sources.containers, paths, strict=True)
        if container.size is None or not path.is_file()
    ]
    if missing:
        progress = Progress("indexed", len(missing))
        run_all(_index_one, missing, min(processes, len(missing)), lambda done, _: progress(done, 0))
    return [Index.load(path) for path in paths]


def _index_one(container: Container, path: Path, labels: Labels) -> None:
    index_container(container, labels, spool_of(path)).save(path)


def _write_all(job: Job, shards: Sequence[Shard], work: Path, processes: int) -> Reports:
    missing = [shard for shard in shards if not (work / report_file(shard)).is_file()]
    if len(missing) < len(shards):
        print(f"going on: {len(shards) - len(missing)} of {len(shards)} shards are written")
    if missing:
        progress = Progress("shards", len(missing))
        run_all(write_shard, [(job, shard, work) for shard in missing], min(processes, len(missing)), progress)
    return [(shard, json.loads((work / report_file(shard)).read_text())) for shard in shards]


def _finish(job: Job, reports: Reports, indices: Sequence[Index], asked: Mapping[str, Any]) -> None:
    """Writes the manifest, TFDS's description and, last, the card."""
    rows = [
        {"split": shard.split, "file": name, "status": status, "reason": reason}
        for shard, report in reports
        for status in ("rejected", "normalized")
        for name, reason in report[status]
    ]
    for split, name, status, reason in accounting.left_out(job.containers, indices, job.classes):
        rows.append({"split": split, "file": name, "status": status, "reason": reason})
    write_whole(job.out / MANIFEST, "".join(json.dumps(row) + "\n" for row in rows))
    describe(job.out, job.name, VERSION, features(job.classes), _lengths(reports))
    counts = {"files": accounting.count_files(indices), "left_out": dict(accounting.count_left_out(indices))}
    card = _card(job, reports, rows) | counts | {"asked": dict(asked)}
    write_whole(job.out / CARD, json.dumps(card, indent=1) + "\n")
    _print_card(job.out, card, rows)


def describe(
    out: Path,
    name: str,
    version: str,
    form: tfds.features.FeaturesDict,
    lengths: Mapping[str, tuple[list[int], int]],
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
    """What a reader wants to know of the data set, and what tells it from any other."""
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
