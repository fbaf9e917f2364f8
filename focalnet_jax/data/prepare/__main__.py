"""Prepare a data set: python -m focalnet_jax.data.prepare KIND --source SRC... --out DIR.

Images in folders, archives or Parquet files become a tensorflow-datasets data set, stored as ArrayRecord. Train
on it with --config.data.source=tfds --config.data.path=DIR. Archives are read in place, not extracted. Run the same
command again to resume a stopped preparation. SRC and DIR may be in a bucket, gs://BUCKET/NAME.

imagefolder   SRC is a folder SPLIT/CLASS/*.jpg or CLASS/*.jpg, a tar of such a folder, or a folder or tar of
              CLASS.tar files
imagenet1k    SRC is a folder with ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, Kaggle's folder
              (ILSVRC/Data/CLS-LOC and LOC_val_solution.csv), or the Hugging Face Hub's tars, shards or Parquet files
imagenet22k   SRC is the uncompressed tar of a release (fall 2011, winter 2021, 21K-P), or a folder with one tar or
              folder per synset
webdataset    SRC is WebDataset shards with .cls, .json or .txt labels, or a folder of such shards
ade20k        SRC is ADEChallengeData2016.zip, and optionally annotations_instance.tar (for segmentation)
coco          SRC is a folder with annotations/instances_SPLIT2017.json (or instances_SPLIT.json) and the images, or
              train2017.zip, val2017.zip and annotations_trainval2017.zip (for detection)
parquet       SRC is Parquet files with a column of encoded images and a column of labels, or a folder of such files
tfrecord      SRC is a tensorflow-datasets data set stored as TFRecord

SRC is a file, a folder, or a pattern such as 'train-{0000..1023}.tar'. For parquet, webdataset and imagenet1k it may be
a data set of the Hugging Face Hub, hf://datasets/ORG/NAME[@REVISION][/FOLDER]: its files are downloaded to the hub's
cache (HF_HOME), and FOLDER is a folder, a file, a pattern or the name of a subset.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from focalnet_jax.data.prepare.ade20k import find_ade20k
from focalnet_jax.data.prepare.buckets import local_output, local_sources
from focalnet_jax.data.prepare.coco import find_coco
from focalnet_jax.data.prepare.kinds import KINDS, find_sources
from focalnet_jax.data.prepare.objects import prepare_coco
from focalnet_jax.data.prepare.pairs import prepare_pairs
from focalnet_jax.data.prepare.preparation import PrepareOptions, prepare
from focalnet_jax.data.prepare.tfrecord import convert
from focalnet_jax.errors import UserError
from focalnet_jax.programs.flags import make_parser
from focalnet_jax.programs.run_command import run_command
from focalnet_jax.settings.checks import is_local
from focalnet_jax.storage.address import CACHE, is_bucket, to_path
from focalnet_jax.storage.staging import local_copy

# Kinds to which each flag applies. Flags that are not listed apply to all kinds.
_KINDS_OF = {
    "classes": ("imagefolder", "webdataset", "parquet", "imagenet1k"),
    "image_column": ("parquet", "imagenet1k"),
    "label_column": ("parquet", "imagenet1k"),
    "val_labels": ("imagenet1k",),
    "held_out": tuple(KINDS),
    "annotations": ("coco",),
    **dict.fromkeys(("name", "shard_mb"), (*KINDS, "ade20k", "coco")),
}


def main(arguments: list[str]) -> int:
    """Parses the flags and prepares the data set."""
    parser = make_parser("data.prepare", __doc__)
    parser.add_argument("kind", choices=[*KINDS, "ade20k", "coco", "tfrecord"], help="kind of SRC, see above")
    parser.add_argument(
        "--source", required=True, nargs="+", metavar="SRC", help="files, folders or addresses of the images"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="parent folder of the output DIR/NAME/1.0.0")
    parser.add_argument(
        "--name", help="name of the data set (default: images, imagenet2012, imagenet22k, ade20k or coco)"
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="file with one class name per line, in the order of the numeric labels, or the word imagenet1k for the "
        "sorted synsets of ImageNet-1K; for the kind imagenet1k, the file only maps numeric labels to classes "
        "(default: the names in the files or on the card of the data set)",
    )
    parser.add_argument(
        "--val-labels",
        type=Path,
        metavar="FILE",
        help="only for imagenet1k; labels of the validation images, from Kaggle, the devkit or a list of synsets "
        "(default: search next to SRC)",
    )
    parser.add_argument(
        "--annotations",
        nargs="+",
        metavar="FILE",
        default=[],
        help="only for coco; JSON files whose names end with a split, or a zip archive with them (default: search SRC)",
    )
    parser.add_argument(
        "--image-column", metavar="NAME", help="Parquet column of images (default: found by type and name)"
    )
    parser.add_argument(
        "--label-column", metavar="NAME", help="Parquet column of labels (default: found by type and name)"
    )
    parser.add_argument(
        "--held-out",
        type=float,
        metavar="FRACTION",
        help="fraction of training images moved to the split val (default: 0.01 for imagenet22k without val, else 0)",
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="number of worker processes"
    )
    parser.add_argument(
        "--shard-mb", type=float, default=512, metavar="MB", help="approximate size of an output file in megabytes"
    )
    parser.add_argument(
        "--cache",
        default=CACHE,
        metavar="FOLDER",
        help="folder for copies of SRC in buckets, which are kept, and for files on their way to DIR in a bucket "
        "(default: %(default)s)",
    )
    flags = parser.parse_args(arguments)
    shard_bytes = flags.shard_mb * 1_000_000
    if flags.processes < 1 or not 0 < shard_bytes < math.inf:
        raise UserError(f"--processes {flags.processes} --shard-mb {flags.shard_mb}: expected positive finite numbers")
    if flags.held_out is not None and not 0 <= flags.held_out < 1:
        raise UserError(f"--held-out {flags.held_out}: expected a fraction of at least 0 and below 1")
    if not is_local(flags.cache):
        raise UserError(f"--cache {flags.cache}: expected a folder on a local disk")
    for flag, kinds in _KINDS_OF.items():
        if getattr(flags, flag) != parser.get_default(flag) and flags.kind not in kinds:
            raise UserError(f"--{flag.replace('_', '-')} applies to {', '.join(kinds)}, not to {flags.kind}: remove it")
    nested = flags.kind == "imagenet1k"  # a part may be given in addition to the folder that contains it
    with (
        local_output(flags.out, flags.cache) as (out, address),
        local_sources(flags.source, flags.cache, nested=nested) as paths,
    ):
        if flags.kind == "tfrecord":
            convert(paths, out, flags.processes, address)
            return 0
        if flags.kind == "ade20k":
            options = PrepareOptions(flags.name or "ade20k", None, round(shard_bytes))
            prepare_pairs(find_ade20k(paths), out, options, flags.processes, address)
            return 0
        if flags.kind == "coco":
            options = PrepareOptions(flags.name or "coco", None, round(shard_bytes))
            annotations = [_local(Path(path)) for path in flags.annotations]
            prepare_coco(find_coco(paths, annotations), out, options, flags.processes, address)
            return 0
        sources = find_sources(
            flags.kind,
            paths,
            classes=_local(flags.classes),
            val_labels=_local(flags.val_labels),
            image_column=flags.image_column,
            label_column=flags.label_column,
            held_out=flags.held_out,
        )
        kind = KINDS[flags.kind]
        options = PrepareOptions(flags.name or kind.name, flags.held_out, round(shard_bytes))
        prepare(kind, sources, out, options, flags.processes, address)
    return 0


def _local(path: Path | None) -> Path | None:
    """Returns a local copy of a file in a bucket; other paths, and None, are returned unchanged."""
    return local_copy(to_path(path)) if path is not None and is_bucket(path) else path


if __name__ == "__main__":
    run_command(main)
