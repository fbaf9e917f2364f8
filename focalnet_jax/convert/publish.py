"""Uploads converted weights to the Hugging Face Hub, and shows the upload without sending it."""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from focalnet_jax.convert.card import CARD, model_card, read_record
from focalnet_jax.convert.weights import Weights
from focalnet_jax.convert.write import WriteReport
from focalnet_jax.errors import UserError, abbreviated
from focalnet_jax.hub.address import Address
from focalnet_jax.hub.choice import DESCRIPTIONS, MODEL_FILES
from focalnet_jax.hub.upload import Repository, find_repository, upload
from focalnet_jax.model.released import license_of

UPLOADED = ("huggingface", "timm", "mmseg", "mmdet")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{1,40}")


@dataclass(frozen=True)
class Plan:
    """The files of an upload, and the repository for them."""

    address: Address
    found: Repository | None  # None if the repository does not exist yet
    folder: Path
    names: tuple[str, ...]
    card: str
    private: bool

    @property
    def replaced(self) -> list[str]:
        """Files in the repository that the upload would replace."""
        return [name for name in self.names if self.found and name in self.found.files]


def add_upload_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags for a destination on the hub."""
    group = parser.add_argument_group(f"DST hf://ORG/NAME, with --to {', '.join(UPLOADED)}")
    group.add_argument("--upload", action="store_true", help="upload; without it, only show what would be sent")
    group.add_argument(
        "--private", action=argparse.BooleanOptionalAction, help="visibility of a new repository (default: private)"
    )
    group.add_argument("--overwrite", action="store_true", help="replace files that the repository already has")
    group.add_argument("--license", metavar="ID", help="licence of the weights for the model card, such as mit")


def check_upload_flags(flags: argparse.Namespace, *, on_the_hub: bool) -> None:
    """Raises `UserError` if a flag for the hub is given with a local destination, or a value is invalid."""
    given = [
        flag for flag in ("upload", "private", "overwrite", "license") if getattr(flags, flag) not in (None, False)
    ]
    if flags.private is False:
        given.append("no-private")
    if given and not on_the_hub:
        raise UserError(f"--{given[0]} is for a destination on the hub, hf://ORG/NAME; DST is {flags.destination}")
    if on_the_hub and flags.to not in UPLOADED:
        raise UserError(
            f"{flags.destination}: --to {flags.to} is written to a local path; expected --to huggingface or timm, or "
            "--to mmseg for weights of segmentation, or --to mmdet for weights of detection"
        )
    if flags.license is not None and not _LICENSE.fullmatch(flags.license):
        raise UserError(
            f"--license {flags.license}: expected an identifier of the hub, such as mit, apache-2.0 or cc-by-4.0"
        )


@contextmanager
def prepared(
    weights: Weights, source: str, address: Address, write: Callable[[Path], WriteReport], flags: argparse.Namespace
) -> Iterator[tuple[Plan, WriteReport]]:
    """Context manager that writes the files of an upload to a temporary folder, which is removed at the end.

    Yields the plan of the upload and the report on the written weights.

    Args:
      weights: the weights to upload.
      source: the path or address from which the weights were read, as given by the user.
      address: the repository.
      write: function that writes the weights to a path: a directory, or a file for "mmseg" and "mmdet".
      flags: values of `--to` and of the flags of `add_upload_flags`.

    Raises:
      UserError: the user has no permission to read the repository, or the format cannot express the model.
      RunFailedError: the hub cannot be reached.
    """
    found = find_repository(address)  # first, because the conversion takes longer
    run = read_record(source)
    license = flags.license or (license_of(source) if run is None else None)
    card = model_card(weights, address, flags.to, source, run, license)
    with tempfile.TemporaryDirectory(prefix="focalnet_jax-") as folder:
        sent = Path(folder) / "model"
        if flags.to in ("mmseg", "mmdet"):  # formats of a single file
            sent.mkdir()
            report = write(sent / "model.safetensors")
        else:
            report = write(sent)
        (sent / CARD).write_text(card)
        names = tuple(sorted(path.name for path in sent.iterdir()))
        yield Plan(address, found, sent, names, card, flags.private is not False), report


def describe_plan(plan: Plan) -> list[str]:
    """Returns the lines that show the user the repository, each file and the model card of an upload."""
    state = f"a new {'private' if plan.private else 'public'} repository"
    if plan.found:
        state = f"an existing {'private' if plan.found.private else 'public'} repository"
    sizes = {name: os.path.getsize(plan.folder / name) for name in plan.names}
    total = f"{len(sizes)} files, {sum(sizes.values()):,} bytes"
    lines = [f"to        hf://{plan.address.repo}, {state}: {total}"]
    for name, size in sizes.items():
        lines.append(
            f"file      {name}  {size:,} bytes{', replaces the file in the repository' * (name in plan.replaced)}"
        )
    others = _other_descriptions(plan)
    if others:
        lines.append(f"note      the repository keeps {abbreviated(others)}, which may describe another model")
    return [*lines, *(f"card      {line}".rstrip() for line in plan.card.splitlines())]


def _other_descriptions(plan: Plan) -> list[str]:
    """Returns the repository's files that contain or describe weights and that the upload does not replace."""
    return sorted(
        name for name in (plan.found.files if plan.found else ())
        if name in (*MODEL_FILES, *DESCRIPTIONS) and name not in plan.names
    )  # fmt: skip


def check_replaced(plan: Plan, *, overwrite: bool) -> None:
    """Raises `UserError` if the upload would replace files in the repository and `overwrite` is false."""
    if plan.replaced and not overwrite:
        raise UserError(
            f"hf://{plan.address.repo} already has {abbreviated(plan.replaced, 5)}; nothing was sent: give --overwrite "
            "to replace them, or another name"
        )


def send(plan: Plan) -> str:
    """Uploads the files and returns the URL of the commit. Raises the errors of `hub.upload.upload`."""
    parent = plan.found.commit if plan.found else None
    message = "Upload FocalNet weights with focalnet_jax"
    return upload(plan.address, plan.folder, plan.names, message, parent=parent, private=plan.private)
