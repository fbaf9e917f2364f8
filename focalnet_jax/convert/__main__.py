"""Convert FocalNet weights: python -m focalnet_jax.convert SRC DST --to {microsoft,timm,huggingface,mmseg,mmdet,orbax}.

SRC is a torch.save file or a safetensors file of any name, an index of shards, a Hugging Face or DeepSpeed directory,
a checkpoint of this package, or an address on the Hugging Face Hub, hf://ORG/NAME[@REVISION][/FILE]. The format and the
model are recognised from the tensors, which may be under any key or prefix. DST is a .pth or .safetensors file
(microsoft, timm, mmseg, mmdet) or a directory (huggingface, orbax, timm). Weights of segmentation, UPerNet with
FocalNet, are written in the formats mmseg, huggingface and orbax; those of detectors in the formats mmdet and orbax.
DST may also be a repository on the hub, hf://ORG/NAME: the command shows the files and the model card, and sends them
with --upload.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
from collections.abc import Iterable
from pathlib import Path

from focalnet_jax.checkpoint.steps import FOLDER, find_checkpoint
from focalnet_jax.convert.adapt import HEAD_POLICIES, adapt
from focalnet_jax.convert.detectors import DetectorWeights
from focalnet_jax.convert.directories import choose_file
from focalnet_jax.convert.files import is_checkpoint, sha256, weight_files
from focalnet_jax.convert.huggingface import CONFIG, PREPROCESSOR
from focalnet_jax.convert.publish import (
    add_upload_flags,
    check_replaced,
    check_upload_flags,
    describe_plan,
    prepared,
    send,
)
from focalnet_jax.convert.read_detector import read_detector
from focalnet_jax.convert.read_upernet import read_upernet
from focalnet_jax.convert.recognise import check_options
from focalnet_jax.convert.tables import TABLES
from focalnet_jax.convert.tensors import DTYPES
from focalnet_jax.convert.upernet import UPerNetWeights
from focalnet_jax.convert.weights import Weights, read_weights
from focalnet_jax.convert.weights_task import weights_task
from focalnet_jax.convert.write import WriteReport, write_weights
from focalnet_jax.convert.write_detector import write_detector
from focalnet_jax.convert.write_upernet import write_upernet
from focalnet_jax.data.class_lists import NUM_1K
from focalnet_jax.errors import UserError
from focalnet_jax.hub.address import is_address
from focalnet_jax.hub.download import local_path
from focalnet_jax.hub.upload import parse_destination
from focalnet_jax.programs.flags import add_weights_flags, make_parser, parse_size
from focalnet_jax.programs.run_command import printable, run_command
from focalnet_jax.settings.tasks import TASKS
from focalnet_jax.storage.address import AnyPath, is_bucket, refuse_mistyped, resolved, to_path
from focalnet_jax.system.files import check_local
from focalnet_jax.system.signals import handled

# Formats for weights of one task only.
_FORMATS_OF_TASKS = {"mmseg": "segmentation", "mmdet": "detection"}


def main(arguments: list[str]) -> int:
    """Reads weights, adapts the classifier if requested, writes or uploads the weights and prints a report."""
    parser = make_parser("convert", __doc__)
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("destination", metavar="DST")
    parser.add_argument("--to", required=True, choices=[*TABLES, *_FORMATS_OF_TASKS, "orbax"], help="format to write")
    add_weights_flags(parser)
    parser.add_argument("--dtype", choices=DTYPES, help="dtype of the tensors written (default: the dtype in SRC)")
    parser.add_argument(
        "--head", choices=HEAD_POLICIES, default="keep", help="keep, drop or remap (ImageNet-22K to 1K) the classifier"
    )
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="K",
        help="number of classes of the written model, for --head drop (default: 0, no classifier)",
    )
    parser.add_argument(
        "--image-size",
        metavar="S|HxW",
        help="input size in pixels in a huggingface config (default: stored with SRC, or 224)",
    )
    add_upload_flags(parser)
    flags = parser.parse_args(arguments)

    size = parse_size("--image-size", flags.image_size)
    if size is not None and flags.to != "huggingface":
        raise UserError(f"--image-size {flags.image_size} is used only with --to huggingface; omit the flag")
    if not is_address(flags.destination):
        check_local(flags.destination, "weights that are not for the hub (hf://ORG/NAME) are")
    refuse_mistyped(flags.destination)
    check_upload_flags(flags, on_the_hub=is_address(flags.destination))
    with handled([signal.SIGTERM], signal.default_int_handler):  # runs the cleanup that removes a partial output
        _convert(flags, size)
    return 0


def _convert(flags: argparse.Namespace, size: tuple[int, int] | None) -> None:
    repository = parse_destination(flags.destination) if is_address(flags.destination) else None
    weights = _read(flags)
    source = to_path(flags.source) if is_bucket(flags.source) else Path(local_path(flags.source))
    sources = _files(source, flags.weights)

    def write(destination: Path) -> WriteReport:
        if isinstance(weights, UPerNetWeights):
            return write_upernet(weights, destination, format=flags.to, dtype=flags.dtype)
        if isinstance(weights, DetectorWeights):
            return write_detector(weights, destination, format=flags.to, dtype=flags.dtype)
        return write_weights(weights, destination, format=flags.to, dtype=flags.dtype, image_size=size)

    _check_task(weights, flags)
    if repository is None:
        _refuse_inside(source, Path(flags.destination))
        weights = _with_head(weights, flags.head, flags.num_classes)
        report = write(Path(flags.destination))
        _print_read(flags.source, weights, report)
        print(
            f"wrote     {flags.destination}: {flags.to}, {report.tensors} tensors, {report.dtype}; every key was used"
        )
        _print_digests((*sources, *report.files))
        return
    weights = _with_head(weights, flags.head, flags.num_classes)
    with prepared(weights, flags.source, repository, write, flags) as (plan, report):
        _print_read(flags.source, weights, report)
        print("\n".join(map(printable, describe_plan(plan))))
        _print_digests(sources)
        if flags.upload:
            check_replaced(plan, overwrite=flags.overwrite)
            print(f"sent      {send(plan)}")
        else:
            print(f"nothing was sent: add --upload{' --overwrite' * bool(plan.replaced)} to send it")


def _read(flags: argparse.Namespace) -> Weights:
    options = check_options(flags.option)
    task = weights_task(flags.source, flags.weights) if flags.head != "drop" else None
    if task == "segmentation":
        return read_upernet(flags.source, flags.model, options, which=flags.weights)
    if task == "detection":
        return read_detector(flags.source, flags.model, options, which=flags.weights)
    return read_weights(flags.source, flags.model, options, which=flags.weights, head=flags.head)


def _check_task(weights: Weights, flags: argparse.Namespace) -> None:
    """Raises `UserError` if the format or a flag does not fit the task of the weights."""
    if (task := _FORMATS_OF_TASKS.get(flags.to, weights.task)) != weights.task:
        has = "a classifier" if weights.config.num_classes else "only a backbone"
        if weights.task != TASKS[0]:
            has = f"weights of {weights.task}"
        raise UserError(
            f"--to {flags.to} writes weights of {task}, and {flags.source} has {has}: train {task} from it with "
            "init_from"
        )
    if weights.task == TASKS[0]:
        return
    given = {"--head remap": flags.head == "remap", "--num-classes": flags.num_classes is not None}
    given["--image-size"] = flags.image_size is not None
    if used := [flag for flag, is_given in given.items() if is_given]:
        raise UserError(
            f"{used[0]} is for classifiers, and {flags.source} has weights of {weights.task}: omit the flag"
        )


def _print_read(source: str, weights: Weights, report: WriteReport) -> None:
    print(f"read      {source}: {weights.format}, {weights.name or 'no released variant'}, {weights.dtype}")
    what = "" if weights.task == TASKS[0] else f"{weights.what.removesuffix(' with FocalNet')}, "
    print(f"model     {what}{weights.count:,} parameters, {weights.config.num_classes} classes")
    for note in (*weights.notes, *report.notes):
        print(f"note      {note}")


def _print_digests(paths: Iterable[AnyPath]) -> None:
    for path in paths:
        print(f"sha256    {sha256(path)}  {path}")


def _with_head(weights: Weights, head: str, num_classes: int | None) -> Weights:
    if head == "keep" and num_classes is None:
        return weights
    if num_classes is None:
        num_classes = NUM_1K if head == "remap" else 0
    return adapt(weights, dataclasses.replace(weights.config, num_classes=num_classes), head=head)


def _refuse_inside(source: AnyPath, destination: Path) -> None:
    """Raises `UserError` if the destination is inside the source, such as the checkpoints of a run."""
    read = find_checkpoint(str(source)) if is_checkpoint(source) else source
    read = read.parent if read.parent.name == FOLDER else read
    if not is_bucket(read) and read.is_dir() and destination.resolve().is_relative_to(resolved(read)):
        raise UserError(f"{destination} is inside the source {read}; write to another directory")


def _files(source: AnyPath, which: str | None) -> list[AnyPath]:
    """Returns the paths whose checksums are printed: a checkpoint, or the weights files with their config or index."""
    if is_checkpoint(source):
        return [find_checkpoint(str(source))]
    if is_bucket(source):
        return [to_path(source)]
    others = [source / CONFIG, source / PREPROCESSOR] if source.is_dir() else [source]
    return sorted({*weight_files(choose_file(source, which)[0]), *(path for path in others if path.is_file())})


if __name__ == "__main__":
    run_command(main)
