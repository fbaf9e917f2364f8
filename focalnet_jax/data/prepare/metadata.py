"""Writes the files that complete a prepared data set: the manifest, the TFDS metadata and the card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from focalnet_jax import __version__
from focalnet_jax.data.card import CARD
from focalnet_jax.data.prepare import accounting
from focalnet_jax.data.prepare.index import Index
from focalnet_jax.data.prepare.naming import SPLITS
from focalnet_jax.data.prepare.plan import Shard
from focalnet_jax.data.prepare.shards import Job, features, shard_file
from focalnet_jax.data.source import fingerprint_of
from focalnet_jax.errors import abbreviated
from focalnet_jax.system.files import write_whole

VERSION = "1.0.0"
MANIFEST = "manifest.jsonl"
Reports = Sequence[tuple[Shard, dict[str, Any]]]  # pairs of a shard and its report, see `ShardWriter`


def write_metadata(job: Job, reports: Reports, indices: Sequence[Index], request: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the manifest, the TFDS metadata and the card, and returns the card.

    The card is written last, because it marks the data set as complete.
    """
    rows = [
        {"split": shard.split, "file": name, "status": status, "reason": reason}
        for shard, report in reports
        for status in ("rejected", "normalized")
        for name, reason in report[status]
    ]
    for split, name, status, reason in accounting.left_out(job.containers, indices, job.classes):
        rows.append({"split": split, "file": name, "status": status, "reason": reason})
    write_whole(job.out / MANIFEST, "".join(json.dumps(row) + "\n" for row in rows))
    write_description(job.out, job.name, VERSION, features(job.classes), lengths_of(reports))
    counts = {"files": accounting.count_files(indices), "left_out": dict(accounting.count_left_out(indices))}
    card = _card(job, reports, rows) | counts | {"asked": dict(request)}
    write_whole(job.out / CARD, json.dumps(card, indent=1) + "\n")
    if job.upload is not None:
        job.upload.finish()
    _print_card(job.title, card, rows)
    return card


def write_description(
    out: Path,
    name: str,
    version: str,
    form: tfds.features.FeaturesDict,
    lengths: Mapping[str, tuple[list[int], int]],
) -> None:
    """Writes the TFDS metadata that makes a folder of shards a data set.

    Args:
      out: folder of the shards.
      name: name of the data set.
      version: version of the data set.
      form: features of an example.
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
    paths = [
        out / shard_file(name, split, number, len(of))
        for split, (of, _) in lengths.items()
        for number in range(len(of))
    ]
    # TFDS reads the format in the names of the files. If the shards were moved to a bucket, empty files replace them.
    moved = [] if any(out.glob(f"{name}-*-of-*")) else paths
    for path in moved:
        path.touch()
    tfds.folder_dataset.write_metadata(
        data_dir=str(out),
        features=form,
        split_infos=infos,
        version=version,
        supervised_keys=supervised,
        check_data=False,
    )
    for path in moved:
        path.unlink()


def lengths_of(reports: Reports) -> dict[str, tuple[list[int], int]]:
    """Returns the number of examples in each shard, and the total bytes, by split."""
    splits = sorted({shard.split for shard, _ in reports}, key=SPLITS.index)
    of = {split: [report for shard, report in reports if shard.split == split] for split in splits}
    return {
        split: ([report["examples"] for report in found], sum(report["bytes"] for report in found))
        for split, found in of.items()
    }


def _card(job: Job, reports: Reports, rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Returns the card, with the number of examples by split and class, and the fingerprint of the data set."""
    counts = {split: Counter() for split in lengths_of(reports)}
    for shard, report in reports:
        counts[shard.split].update({int(label): count for label, count in report["classes"].items()})
    files = [(shard_file(job.name, shard.split, shard.number, shard.count), report) for shard, report in reports]
    digests = (f"{shard.split} {shard.number} {report['digest']}" for shard, report in reports)
    return {
        "name": job.name,
        "fingerprint": fingerprint_of(digests),
        "splits": {
            split: {"examples": sum(shards), "bytes": size, "shards": len(shards)}
            for split, (shards, size) in lengths_of(reports).items()
        },
        # Reports of preparations that were started by an older version have no checksums.
        "sha256": {file: report["sha256"] for file, report in files if "sha256" in report},
        "rejected": sum(row["status"] == "rejected" for row in rows),
        "normalized": sum(row["status"] == "normalized" for row in rows),
        "classes": {
            name: {split: found[label] for split, found in counts.items()} for label, name in enumerate(job.classes)
        },
        "version": __version__,
    }


def _print_card(out: str, card: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> None:
    for split, of in card["splits"].items():
        print(f"{split:<6}{of['examples']:,} images, {of['bytes'] / 1e6:,.1f} MB, {of['shards']} shards")
    empty = [name for name, counts in card["classes"].items() if not counts.get("train")]
    print(f"{len(card['classes'])} classes, {len(empty)} without training images{_some(empty)}")
    unseen = [name for name, counts in card["classes"].items() if counts.get("train") and not counts.get("val", 1)]
    if unseen:
        print(f"note: {len(unseen)} classes with training images have no images in val{_some(unseen)}")
    untrained = [name for name in empty if card["classes"][name].get("val")]
    if untrained and "train" in card["splits"]:
        print(f"note: {len(untrained)} classes of val have no training images{_some(untrained)}")
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
    print(f"images rejected: {card['rejected']}, normalized: {card['normalized']}; listed in {out}/{MANIFEST}")
    print(f"fingerprint {card['fingerprint']}; train with --config.data.source=tfds --config.data.path={out}")


def _some(names: Sequence[str]) -> str:
    return f" ({abbreviated(names, 5)})" if names else ""
