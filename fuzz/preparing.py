"""Helpers of the families that run `data.prepare`: preparation in this process, and the contents of data sets."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from focalnet_jax.data.prepare import preparation, tfrecord
from focalnet_jax.data.prepare.__main__ import main
from focalnet_jax.data.tfds_source import TfdsSource
from focalnet_jax.errors import UserError
from focalnet_jax.programs.run_command import explain_os_error

Contents = set[tuple[str, str]]  # (class, hash) of every image


def stay_in_process() -> None:
    """Makes `data.prepare` work in this process, because starting a process takes a second."""
    preparation.run_all = tfrecord.run_all = _run_here


def _run_here(function: Any, arguments: Any, processes: int, report: Any) -> None:
    for done, given in enumerate(arguments, 1):
        report(done, function(*given))


def prepare_quietly(kind: str, source: Path, out: Path, *further: str) -> None:
    """Runs `data.prepare` in this process."""
    with contextlib.redirect_stdout(io.StringIO()), explained():
        main([kind, "--source", str(source), "--out", str(out), "--processes=1", *further])


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Context manager that turns errors of the operating system into `UserError`, like the commands do."""
    try:
        yield
    except OSError as error:
        line = explain_os_error(error)
        if line is None:
            raise
        raise UserError(line) from error


def digest(content: bytes) -> str:
    """Returns the hash of an image in `Contents`."""
    return hashlib.sha256(content).hexdigest()


def contents(out: Path, splits: Sequence[str] = ("train", "val", "test")) -> Contents:
    """Returns the contents of the data set below a folder."""
    held: Contents = set()
    (folder,) = out.glob("*/*")
    for split in splits:
        try:
            source = TfdsSource(str(folder), split)
        except UserError:
            continue
        for index in range(len(source)):
            picture, label = source[index]
            held.add((source.class_names[int(label)], digest(picture)))
    return held
