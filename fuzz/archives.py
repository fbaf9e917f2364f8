"""Fuzzes tar archives of images, through `data.prepare` and the data sets that it writes."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from focalnet_jax.errors import RunFailedError, UserError
from fuzz.mutations import Rng, mutate_bytes, pick
from fuzz.preparing import Contents, contents, digest, prepare_quietly, stay_in_process
from fuzz.runner import Family, WrongAnswerError

_CLASSES = ("cat", "dog", "n01440764")


@dataclass(frozen=True)
class Archive:
    """The files of a tar, and the contents of a data set prepared from the tar."""

    files: dict[str, bytes]
    held: Contents


def prepare(_: Path) -> list[Archive]:
    """Returns the files of archives of several layouts."""
    stay_in_process()
    rng = np.random.default_rng(0)
    pictures = {}
    for label in _CLASSES:
        for number in range(3):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (9, 8, 3)).astype(np.uint8)).save(buffer, "PNG")
            pictures[f"{label}/{number}.png"] = buffer.getvalue()
    held = {(name.split("/")[0], digest(content)) for name, content in pictures.items()}
    split = {f"{'val' if '2.png' in name else 'train'}/{name}": content for name, content in pictures.items()}
    deep = {f"images/{name}": content for name, content in pictures.items()}
    inner = {}
    for label in _CLASSES:
        mine = {name.partition("/")[2]: content for name, content in pictures.items() if name.startswith(label)}
        inner[f"{label}.tar"] = write_tar(mine)
    return [Archive(files, held) for files in (pictures, split, deep, inner)]


def write_tar(files: Mapping[str, bytes], format: int = tarfile.USTAR_FORMAT, **fields: Any) -> bytes:
    """Returns a tar of `files`, whose members all have the same metadata."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in fields.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def case(archives: list[Archive], rng: Rng, folder: Path) -> None:
    """Prepares a changed archive and reads the data set."""
    archive = pick(rng, archives)
    whole = False
    match int(rng.integers(6)):
        case 0:
            content, whole = _written_otherwise(archive.files, rng), True
        case 1:
            content = mutate_bytes(write_tar(archive.files), rng)
        case 2:
            content = _with_member(archive.files, rng)
        case 3:
            content = write_tar({name: mutate_bytes(each, rng) for name, each in archive.files.items()})
        case _:
            content = _header_changed(write_tar(archive.files), rng)
    path = folder / f"images{'.tar' if whole else pick(rng, ('.tar', '.tar', '.tar', '.TAR', '.zip', ''))}"
    path.write_bytes(content)
    outside = _outside(folder)
    try:
        prepare_quietly("imagefolder", path, folder / "out", "--shard-mb=1")
    except (UserError, RunFailedError) as error:
        if whole:
            raise WrongAnswerError(f"an undamaged archive is rejected: {error}") from error
        raise
    finally:
        if outside != _outside(folder):
            raise WrongAnswerError("something was written outside of --out")
    held = contents(folder / "out")
    if whole and held != archive.held:
        raise WrongAnswerError(f"the data set has {len(held)} images, of which {len(held & archive.held)} are right")
    labels = {label for label, _ in archive.held} | _labels(content)
    for label, _ in held:
        if label not in {each.strip() for each in labels}:  # TFDS strips white space from names
            raise WrongAnswerError(f"there is no folder {label}")


def _outside(folder: Path) -> set[str]:
    around = {str(each) for each in folder.parent.iterdir()}
    return around | {str(each) for each in folder.iterdir() if each.name != "out"}


def _labels(content: bytes) -> set[str]:
    """Returns the names in a tar that may be classes, read with Python's tarfile."""
    found = set()
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:", errorlevel=0) as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                found |= {*path.parts, path.stem}
    except (tarfile.TarError, EOFError, ValueError, OSError):
        pass
    return found | {"images"}


def _written_otherwise(files: Mapping[str, bytes], rng: Rng) -> bytes:
    """Returns a tar with the same files in a different order and format, and with folders and files without images."""
    names = [str(name) for name in rng.permutation(sorted(files))]
    format = pick(rng, (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    before = pick(rng, ("", "./"))
    ordered = {before + name: files[name] for name in names}
    if rng.random() < 0.5:
        ordered[f"{names[0].rpartition('/')[0] or '.'}/.DS_Store"] = b"\0\0\0\1Bud1"
    return write_tar(ordered, format, mtime=int(rng.integers(2**31)), mode=0o600, uname=pick(rng, ("", "someone")))


_NAMES = (
    *("../outside.png", "/tmp/outside.png", "cat/../../outside.png", "cat/./x.png", "cat//x.png", "x" * 300 + ".png"),
    *("cat/\udcff.png", "cat/a\nb.png", "", ".", "..", "cat/" * 60 + "x.png", "train/val/x.png", "cat/.hidden.png"),
)  # fmt: skip
_TYPES = (
    *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE),
    *(tarfile.GNUTYPE_SPARSE, b"Z", b"\0"),
)  # fmt: skip


def _with_member(files: Mapping[str, bytes], rng: Rng) -> bytes:
    """Returns a tar with the files and one unsafe or unusual member."""
    buffer = io.BytesIO(write_tar(files))
    with tarfile.open(fileobj=buffer, mode="a", format=pick(rng, (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))) as archive:
        member = tarfile.TarInfo(pick(rng, (*_NAMES, *files)))
        member.type = pick(rng, (tarfile.REGTYPE, *_TYPES))
        member.linkname = pick(rng, ("", "../../outside", "/etc/passwd", "cat/0.png"))
        content = pick(rng, (b"", b"x" * 700, *files.values()))
        member.size = len(content) if member.isreg() else 0
        with contextlib.suppress(ValueError, UnicodeError):  # the tar format cannot store this name
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


_FIELDS = ((0, 100), (100, 8), (124, 12), (136, 12), (148, 8), (156, 1), (157, 100), (257, 8), (345, 155))


def _header_changed(content: bytes, rng: Rng) -> bytes:
    """Returns a tar with a changed header field, mostly with a valid checksum."""
    archive = bytearray(content)
    with tarfile.open(fileobj=io.BytesIO(content)) as members:
        place = pick(rng, [member.offset for member in members])
    begin, size = pick(rng, _FIELDS)
    new = pick(
        rng,
        (
            b"\0" * size,
            b"7" * (size - 1) + b"\0",
            b"\x80" + b"\0" * (size - 1),
            b"\xff" * size,
            b"%011o\0" % int(rng.integers(2**33)),
            rng.bytes(size),
            b"cat/../../x",
            b" 1",
        ),
    )[:size]
    archive[place + begin : place + begin + len(new)] = new
    if rng.random() < 0.8:
        block = bytes(archive[place : place + 148]) + b" " * 8 + bytes(archive[place + 156 : place + 512])
        archive[place + 148 : place + 156] = b"%06o\0 " % sum(block)
    return bytes(archive)


FAMILY = Family("archives", 1500, prepare, case, seconds=60)
