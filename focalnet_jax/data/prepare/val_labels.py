"""Finds and reads the labels of ImageNet-1K's validation images, in any of their file formats."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from focalnet_jax.data.class_lists import NUM_1K, class_list
from focalnet_jax.data.prepare.containers import files, first_bytes, tar
from focalnet_jax.errors import UserError

FORMS = (
    "LOC_val_solution.csv of Kaggle, ILSVRC2012_devkit_t12.tar.gz, or a text file with one synset per line in the "
    "order of the images or one line 'FILE SYNSET' per image"
)
_GROUND_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
# Files searched for next to the images without --val-labels, in order of precedence.
_KNOWN = (
    "LOC_val_solution.csv",
    _GROUND_TRUTH,
    f"data/{_GROUND_TRUTH}",
    f"ILSVRC2012_devkit_t12/data/{_GROUND_TRUTH}",
    "ILSVRC2012_devkit_t12.tar.gz",
    "ILSVRC2012_devkit_t12.tar",
    "imagenet_2012_validation_synset_labels.txt",
)
_LARGEST = 1 << 26  # largest label list, and largest unpacked matrix of meta.mat, in bytes
# The first validation image, a sea snake, and its class index in ImageNet's order, from 0.
_FIRST_IMAGE, _FIRST_NUMBER = "ILSVRC2012_val_00000001", 65
_NUM_VAL = 50_000


def find_val_labels(folders: Sequence[Path]) -> Path | None:
    """Returns the first label list found in the folders, or None."""
    return next((folder / name for folder in folders for name in _KNOWN if (folder / name).is_file()), None)


def read_val_labels(path: Path) -> dict[str, str]:
    """Returns synsets by the file stem of the validation images.

    Args:
      path: a file as in `FORMS`, or the devkit's folder or ground truth, whose class numbers are those of its meta.mat.

    Raises:
      UserError: the file cannot be read, has another format, or numbers classes in an unknown order.
    """
    if path.is_dir():
        found = find_val_labels([path])
        if found is None:
            raise UserError(f"--val-labels {path} is a folder without a list of labels; expected {FORMS}")
        path = found
    meta = None
    if first_bytes(path)[:2] == b"\x1f\x8b" or path.suffix == ".tar":
        text, meta = _devkit(path)
    else:
        text = _text(path, _read(path))
    rows = [re.split(r"[,\s]+", line.strip()) for line in text.splitlines() if line.strip()]
    if rows and rows[0][0] == "ImageId":  # the header of LOC_val_solution.csv
        rows = rows[1:]
    if not rows:
        raise UserError(f"{path} is empty; expected {FORMS}")
    if all(len(row) == 1 and row[0].isdigit() for row in rows):
        synsets = _devkit_synsets(path, _find_meta(path) if meta is None else meta)
        labels = {_nth(number): synsets.get(int(row[0]), row[0]) for number, row in enumerate(rows, 1)}
    elif len(rows[0]) > 1 and all(row[1:2] and row[1].isdigit() for row in rows):
        labels = _numbered(path, rows)
    elif len(rows[0]) > 1:
        labels = _by_stem(path, [(row[0], row[1] if len(row) > 1 else "") for row in rows])
    else:
        labels = {_nth(number): row[0] for number, row in enumerate(rows, 1)}
    known = {synset for synset, _ in class_list(NUM_1K)}
    wrong = [f"{stem} {synset}" for stem, synset in labels.items() if synset not in known]
    if wrong:
        raise UserError(
            f"{path}: expected an ImageNet-1K synset such as n01440764 for every image, got {wrong[0][:60]!r}: give "
            f"{FORMS}"
        )
    return labels


def _by_stem(path: Path, rows: Sequence[Sequence[str]]) -> dict[str, str]:
    """Returns labels by file stem from rows (FILE, LABEL); raises `UserError` if two rows of a file differ."""
    labels: dict[str, str] = {}
    for file, label in rows:
        stem = Path(file).stem
        if labels.setdefault(stem, label) != label:
            raise UserError(f"{path} has two classes for {stem}, {labels[stem]} and {label}: correct it")
    return labels


def _nth(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}"


def _numbered(path: Path, rows: Sequence[Sequence[str]]) -> dict[str, str]:
    """Returns synsets by file stem from Caffe's lines FILE NUMBER, with numbers from 0 in the order of the synsets."""
    numbers = {stem: int(number) for stem, number in _by_stem(path, [row[:2] for row in rows]).items()}
    synsets = [synset for synset, _ in class_list(NUM_1K)]
    if len(numbers) > 2 and list(numbers.values()) == list(range(1, len(numbers) + 1)):
        raise UserError(f"{path}: its numbers count images, as in Kaggle's ImageSets, not classes: give {FORMS}")
    first = numbers.get(_FIRST_IMAGE, _FIRST_NUMBER)
    other = first != _FIRST_NUMBER if len(numbers) == _NUM_VAL else first == _FIRST_NUMBER + 1  # counted from 1
    if max(numbers.values()) >= NUM_1K or other:
        raise UserError(
            f"{path}: expected numbers from 0 to {NUM_1K - 1} in the order of the sorted synsets, in which the first "
            f"image has {_FIRST_NUMBER}; its numbers differ, so their order is unknown: give {FORMS}"
        )
    return {stem: synsets[number] for stem, number in numbers.items()}


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > _LARGEST:
        raise UserError(f"{path} has more than {_LARGEST:,} bytes, too many for a label list: give {FORMS}")
    return content


def _text(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: {error}; expected {FORMS}") from error


def _devkit(path: Path) -> tuple[str, bytes]:
    """Returns the ground truth and meta.mat in the devkit's tar."""
    wanted: dict[str, bytes] = {}
    for file in files(tar(path), Counter()):
        name = file.name.rpartition("/")[2]
        if name in (_GROUND_TRUTH, _META) and file.size <= _LARGEST:
            wanted[name] = file.read()
    if len(wanted) < 2:
        raise UserError(
            f"{path}: expected the devkit of ILSVRC2012 with {_GROUND_TRUTH} and {_META}; one of them is missing"
        )
    return _text(path, wanted[_GROUND_TRUTH]), wanted[_META]


def _find_meta(path: Path) -> bytes:
    """Returns the devkit's meta.mat from the folder of `path`; raises `UserError` if there is none."""
    kit = [path.parent / name for name in ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12.tar")]
    for found in filter(Path.is_file, kit):
        return _devkit(found)[1]
    for found in (
        path.parent / _META,
        path.parent / "data" / _META,
        path.parent / "ILSVRC2012_devkit_t12/data" / _META,
    ):
        if found.is_file():
            return _read(found)
    raise UserError(
        f"{path} holds the devkit's own class numbers (ILSVRC2012_ID), not the order of the synsets: put the devkit's "
        f"data/{_META} in the same folder, or give --val-labels ILSVRC2012_devkit_t12.tar.gz"
    )


def _devkit_synsets(path: Path, meta: bytes) -> dict[int, str]:
    """Returns synsets by the devkit's class numbers."""
    from scipy.io import loadmat  # comes with scikit-learn

    try:
        _check_growth(meta)
        rows = loadmat(io.BytesIO(meta), squeeze_me=True, variable_names=["synsets"])["synsets"]
        found = {int(number): str(synset) for number, synset in zip(rows["ILSVRC2012_ID"], rows["WNID"], strict=True)}
    except Exception as error:  # the library raises any type for damaged bytes
        raise UserError(f"{_META} of {path} is damaged or not the devkit's: {error}") from error
    known = {synset for synset, _ in class_list(NUM_1K)}
    return {number: synset for number, synset in found.items() if synset in known}


def _check_growth(meta: bytes) -> None:
    """Raises `ValueError` if a compressed matrix unpacks to more than `_LARGEST` bytes."""
    place = 128  # after the header of a MATLAB 5 file
    while place + 8 <= len(meta):
        kind, size = struct.unpack_from("<II", meta, place)
        if kind == 15:  # compressed
            unpacking = zlib.decompressobj()
            unpacking.decompress(meta[place + 8 : place + 8 + size], _LARGEST)
            if unpacking.unconsumed_tail:
                raise ValueError(f"it unpacks to more than {_LARGEST:,} bytes")
        place += 8 + size
