"""Finds and reads label lists of ImageNet-1K's validation images, in any of their file formats."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from focalnet_jax.data.class_lists import NUM_1K, class_list
from focalnet_jax.data.prepare.containers import files, first_bytes, tar
from focalnet_jax.data.prepare.naming import FIRST_IMAGE, FIRST_SYNSET, NUM_IMAGES, is_synset
from focalnet_jax.errors import UserError

FORMS = (
    "LOC_val_solution.csv of Kaggle, ILSVRC2012_devkit_t12.tar.gz, or a text file with one synset per line in the "
    "order of the images or one line 'FILE SYNSET' per image"
)
_GROUND_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
# Label lists that are searched for next to the images if --val-labels is not given. All readable lists must agree.
_KNOWN = (
    "LOC_val_solution.csv",
    _GROUND_TRUTH,
    f"data/{_GROUND_TRUTH}",
    f"ILSVRC2012_devkit_t12/data/{_GROUND_TRUTH}",
    "ILSVRC2012_devkit_t12.tar.gz",
    "ILSVRC2012_devkit_t12.tar",
    "imagenet_2012_validation_synset_labels.txt",
)
_LARGEST = 1 << 26  # limit for a label list, and for an unpacked matrix of meta.mat, in bytes
_HEADERS = ("imageid", "image_id", "image", "filename", "file_name", "file", "path", "name", "id", "synset", "wnid")


@dataclass(frozen=True)
class ValLabels:
    """A label list of validation images."""

    path: Path
    synsets: dict[str, str]  # synset by file name without suffix
    unproven: frozenset[int] = frozenset()  # class numbers in the list; empty if the first image proves their order
    by_line: bool = False  # whether the n-th line is the label of the n-th image


def find_val_labels(folders: Sequence[Path]) -> list[Path]:
    """Returns the paths of the label lists in the folders."""
    return [folder / name for folder in folders for name in _KNOWN if (folder / name).is_file()]


def agreed_val_labels(paths: Sequence[Path]) -> tuple[ValLabels | None, list[UserError]]:
    """Returns the first readable list, or None if no list is readable, and the errors of the unreadable lists.

    Raises:
      UserError: two lists have different classes for an image.
    """
    first, errors = None, []
    for path in paths:
        try:
            found = read_val_labels(path)
        except UserError as error:
            errors.append(error)
            continue
        first = first or found
        differing = [
            stem for stem in first.synsets.keys() & found.synsets.keys() if first.synsets[stem] != found.synsets[stem]
        ]
        if differing:
            raise UserError(
                f"{first.path} and {path} have different classes for {len(differing)} images, such as "
                f"{min(differing)}: give the correct list with --val-labels"
            )
    return first, errors


def read_val_labels(path: Path) -> ValLabels:
    """Returns the labels of the validation images in a list.

    Args:
      path: file in one of the formats in `FORMS`, folder with such files, or the devkit's ground truth, whose class
        numbers are defined in the devkit's meta.mat.

    Raises:
      UserError: the file cannot be read, has a different format, or contains class numbers in an unknown order.
    """
    if path.is_dir():
        lists, errors = agreed_val_labels(find_val_labels([path]))
        if lists is None:
            raise (
                errors[0]
                if errors
                else UserError(f"--val-labels {path} is a folder without a label list; expected {FORMS}")
            )
        return lists
    meta = None
    if first_bytes(path)[:2] == b"\x1f\x8b" or path.suffix == ".tar":
        text, meta = _devkit(path)
    else:
        text = _text(path, _read(path))
    lines = [line.replace('"', " ").strip(" \t,;") for line in text.rstrip().splitlines()]
    rows = [re.split(r"[,;\s]+", line) for line in lines if line]
    if rows and rows[0][0].lower() in _HEADERS:
        rows = rows[1:]
    if not rows:
        raise UserError(f"{path} is empty; expected {FORMS}")
    if "" in lines and len(rows[-1]) == 1:
        raise UserError(
            f"{path}: line {lines.index('') + 1} is empty, so the labels after it are shifted; correct the list"
        )
    rows = [[word.lower() if is_synset(word.lower()) else word for word in row] for row in rows]
    unproven = frozenset()
    if all(len(row) == 1 and _is_number(row[0]) for row in rows):
        synsets = _devkit_synsets(path, _find_meta(path) if meta is None else meta)
        labels = {_nth(number): synsets.get(int(row[0]), row[0]) for number, row in enumerate(rows, 1)}
    elif len(rows[0]) > 1 and all(row[1:2] and _is_number(row[1]) for row in rows):
        labels, unproven = _numbered(path, rows)
    elif len(rows[0]) > 1:
        labels = _by_stem(path, [(row[0], row[1] if len(row) > 1 else "") for row in rows])
    else:
        labels = {_nth(number): row[0] for number, row in enumerate(rows, 1)}
    known = {synset for synset, _ in class_list(NUM_1K)}
    wrong = [f"{stem} {synset}" for stem, synset in labels.items() if synset not in known]
    if wrong:
        raise UserError(
            f"{path}: expected an ImageNet-1K synset such as n01440764 for every image, got {wrong[0][:60]!r}; give "
            f"{FORMS}"
        )
    # Shorter lists may be for other images, see `numbering.check_first`.
    if len(labels) >= NUM_IMAGES["val"] and labels.get(FIRST_IMAGE, FIRST_SYNSET) != FIRST_SYNSET:
        raise UserError(
            f"{path} gives {FIRST_IMAGE} the class {labels[FIRST_IMAGE]}, but it shows a sea snake, {FIRST_SYNSET}, so "
            f"the list has another order, or is not a list of labels: give {FORMS}"
        )
    return ValLabels(path, labels, unproven, by_line=len(rows[0]) == 1)


def _is_number(word: str) -> bool:
    return bool(re.fullmatch(r"\d{1,9}", word, re.ASCII))


def _by_stem(path: Path, rows: Sequence[Sequence[str]]) -> dict[str, str]:
    """Returns labels by file stem from rows (FILE, LABEL); raises `UserError` if a file has two different labels."""
    labels: dict[str, str] = {}
    for file, label in rows:
        stem = Path(file).stem
        if labels.setdefault(stem, label) != label:
            raise UserError(f"{path} has two classes for {stem}, {labels[stem]} and {label}: correct the list")
    return labels


def _nth(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}"


def _numbered(path: Path, rows: Sequence[Sequence[str]]) -> tuple[dict[str, str], frozenset[int]]:
    """Returns synsets by file stem from a list in Caffe's format, and the set of unproven numbers.

    Each line is FILE NUMBER. The numbers must be indices of the sorted synsets, from 0. The number of the first
    validation image proves this; the set is then empty, else it contains all numbers in the list.
    """
    numbers = {stem: int(number) for stem, number in _by_stem(path, [row[:2] for row in rows]).items()}
    synsets = [synset for synset, _ in class_list(NUM_1K)]
    if len(numbers) > 2 and list(numbers.values()) == list(range(1, len(numbers) + 1)):
        raise UserError(
            f"{path} contains image numbers, like Kaggle's ImageSets, instead of class numbers: give {FORMS}"
        )
    first = synsets.index(FIRST_SYNSET)
    whole = len(numbers) >= NUM_IMAGES["val"]
    if max(numbers.values()) >= NUM_1K or (whole and numbers.get(FIRST_IMAGE, first) != first):
        raise UserError(
            f"{path}: expected class numbers from 0 to {NUM_1K - 1} in the order of the sorted synsets, with {first} "
            f"for {FIRST_IMAGE}; the order of its numbers is unknown, so give {FORMS}"
        )
    unproven = frozenset() if numbers.get(FIRST_IMAGE) == first else frozenset(numbers.values())
    return {stem: synsets[number] for stem, number in numbers.items()}, unproven


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
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: {error}; expected {FORMS}") from error


def _devkit(path: Path) -> tuple[str, bytes]:
    """Returns the ground truth and the content of meta.mat in the devkit's tar."""
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
    """Returns the content of the devkit's meta.mat, in or below the folder of `path`; raises `UserError` if missing."""
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
        f"{path} contains the devkit's class numbers (ILSVRC2012_ID), which only the devkit's {_META} maps to synsets: "
        f"put data/{_META} in the same folder, or give --val-labels ILSVRC2012_devkit_t12.tar.gz"
    )


def _devkit_synsets(path: Path, meta: bytes) -> dict[int, str]:
    """Returns ImageNet-1K's synsets by the devkit's class numbers; `meta` is the content of meta.mat."""
    from scipy.io import loadmat  # installed with scikit-learn

    try:
        _check_growth(meta)
        rows = loadmat(io.BytesIO(meta), squeeze_me=True, variable_names=["synsets"])["synsets"]
        found = {int(number): str(synset) for number, synset in zip(rows["ILSVRC2012_ID"], rows["WNID"], strict=True)}
    except Exception as error:  # scipy raises errors of any type for damaged bytes
        raise UserError(f"{_META} of {path} is damaged or not the devkit's: {error}") from error
    known = {synset for synset, _ in class_list(NUM_1K)}
    return {number: synset for number, synset in found.items() if synset in known}


def _check_growth(meta: bytes) -> None:
    """Raises `ValueError` if a compressed matrix in meta.mat unpacks to more than `_LARGEST` bytes."""
    offset = 128  # after the header of a MATLAB 5 file
    while offset + 8 <= len(meta):
        kind, size = struct.unpack_from("<II", meta, offset)
        if kind == 15:  # compressed
            unpacking = zlib.decompressobj()
            unpacking.decompress(meta[offset + 8 : offset + 8 + size], _LARGEST)
            if unpacking.unconsumed_tail:
                raise ValueError(f"it unpacks to more than {_LARGEST:,} bytes")
        offset += 8 + size
