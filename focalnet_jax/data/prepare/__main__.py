"""Prepare a data set: python -m focalnet_jax.data.prepare KIND --source SRC... --out DIR.

Images in folders or tar archives become a data set described for tensorflow-datasets and stored as ArrayRecord, to
train from with --config.data.source=tfds --config.data.path=DIR. Archives are read in place, not extracted. A stopped
preparation goes on with the same command.

imagefolder   SRC is a folder SPLIT/CLASS/*.jpg or CLASS/*.jpg, or a tar of one, or a tar or folder of CLASS.tar
imagenet1k    SRC is a folder with ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, the folder that Kaggle gives
              (ILSVRC/Data/CLS-LOC beside LOC_val_solution.csv), or the Hugging Face hub's tars, shards or Parquet
imagenet22k   SRC is the tar of a release (fall 2011, winter 2021, 21K-P; gunzipped), or a folder of synsets' tars or
              folders
webdataset    SRC is shards of WebDataset, images with .cls, .json or .txt, or a folder of them
parquet       SRC is Parquet files with a column of encoded images and one of labels, or a folder of them
tfrecord      SRC is a prepared data set of tensorflow-datasets stored as TFRecord
"""

from __future__ import annotations

import os
from pathlib import Path

from focalnet_jax.data.prepare.kinds import KINDS, find_sources
from focalnet_jax.data.prepare.preparation import Options, prepare
from focalnet_jax.data.prepare.tfrecord import convert
from focalnet_jax.errors import UserError
from focalnet_jax.programs.command_line import make_parser, run_command

# What flags are for; the others are for all.
_KINDS_OF = {
    "classes": ("imagefolder", "webdataset", "parquet"),
    "image_column": ("parquet", "imagenet1k"),
    "label_column": ("parquet", "imagenet1k"),
    "val_labels": ("imagenet1k",),
    **dict.fromkeys(("name", "held_out", "shard_mb"), tuple(KINDS)),
}


def main(arguments: list[str]) -> int:
    """Parses flags and prepares."""
    parser = make_parser("data.prepare", __doc__)
    parser.add_argument("kind", choices=[*KINDS, "tfrecord"], help="what SRC is")
    parser.add_argument("--source", required=True, nargs="+", metavar="SRC", type=Path)
    parser.add_argument("--out", required=True, metavar="DIR", type=Path, help="gets DIR/NAME/1.0.0")
    parser.add_argument("--name", help="of the data set; by default images, imagenet2012 or imagenet22k")
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="names of the classes in order, one per line",
    )
    parser.add_argument(
        "--val-labels",
        type=Path,
        metavar="FILE",
        help="imagenet1k: synsets of the val images, from Kaggle, the devkit or a list; found beside SRC",
    )
    parser.add_argument("--image-column", metavar="NAME", help="of Parquet files; by default found by type and name")
    parser.add_argument("--label-column", metavar="NAME", help="of Parquet files; by default found by type and name")
    parser.add_argument(
        "--held-out",
        type=float,
        metavar="SHARE",
        help="share of the training images that become the split val; without one of its own 0.01 for imagenet22k",
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--shard-mb", type=float, default=512, metavar="MB", help="about how large a file is")
    flags = parser.parse_args(arguments)
    if flags.processes < 1 or not flags.shard_mb > 0:
        raise UserError(f"--processes {flags.processes} --shard-mb {flags.shard_mb}: expected positive numbers")
    if flags.held_out is not None and not 0 <= flags.held_out < 1:
        raise UserError(f"--held-out {flags.held_out}: expected a share in [0, 1)")
    for flag, kinds in _KINDS_OF.items():
        if getattr(flags, flag) != parser.get_default(flag) and flags.kind not in kinds:
            raise UserError(f"--{flag.replace('_', '-')} is for {', '.join(kinds)}, not for {flags.kind}")
    if flags.kind == "tfrecord":
        convert(flags.source, flags.out, flags.processes)
        return 0
    sources = find_sources(
        flags.kind,
        flags.source,
        classes=flags.classes,
        val_labels=flags.val_labels,
        image_column=flags.image_column,
        label_column=flags.label_column,
    )
    kind = KINDS[flags.kind]
    options = Options(flags.name or kind.name, flags.held_out, round(flags.shard_mb * 1_000_000))
    prepare(kind, sources, flags.out, options, flags.processes)
    return 0


if __name__ == "__main__":
    run_command(main)
