"""Finds the files of a source: in a folder, by a pattern, or in a data set on the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from focalnet_jax.data.listing import is_folder, walk
from focalnet_jax.data.prepare.cards import CARD_FILES, Card, read_card
from focalnet_jax.data.prepare.columns import import_arrow
from focalnet_jax.data.prepare.containers import parquet
from focalnet_jax.data.prepare.labels import Labels
from focalnet_jax.data.prepare.naming import is_hidden, is_tar, splits_in, tar_stem
from focalnet_jax.data.prepare.patterns import expand_braces, is_pattern
from focalnet_jax.data.prepare.rows import is_parquet, label_column
from focalnet_jax.data.prepare.subsets import Choice, choose_files, folders_as_subsets
from focalnet_jax.data.prepare.workers import ProgressPrinter
from focalnet_jax.errors import UserError, abbreviated, shown_size
from focalnet_jax.hub.address import Address, is_address, parse_address
from focalnet_jax.hub.datasets import fetch_files, linked, list_files

_CONVERTED = "refs/convert/parquet"  # revision with Parquet files that the hub generates for most data sets

# Web page of a data set, its repository, revision and folder. A `Path` has one slash in place of two.
_PAGE = re.compile(r"https?:/+[^/]+/datasets/([^/]+/[^/]+)(?:/(?:tree|blob|resolve|viewer)/([^/]+)(?:/(.*))?)?")


@dataclass(frozen=True)
class Location:
    """A file or folder of a source.

    Attributes:
      path: the file or folder.
      card: description of the data set.
      subset: name of the chosen subset, or "" if there is none.
      splits: split of each file to read, or "" if its name contains the split; None to read all files at `path`.
      notes: lines for the user.
    """

    path: Path
    card: Card = field(default_factory=Card)
    subset: str = ""
    splits: Mapping[Path, str] | None = None
    notes: tuple[str, ...] = ()


def locate(kind: str, path: Path, labels: Labels) -> list[Location]:
    """Returns the locations for a value of `--source`. Files of the hub are downloaded to its cache.

    Args:
      kind: kind of the source.
      path: a file or folder, a pattern, or an address hf://datasets/ORG/NAME[@REVISION][/FOLDER].
      labels: columns of Parquet files. They are searched for in the first file before other files are downloaded.

    Raises:
      UserError: a pattern matches no file, the data set has no files of the kind, or several subsets.
      RunFailedError: a download failed.
    """
    if is_address(path):
        return [_on_hub(kind, parse_address(path, "dataset"), labels)]
    if page := _PAGE.match(str(path)):
        repo, revision, folder = page.groups()
        raise UserError(
            f"--source {path} is a web page: give the address {Address(repo, revision, folder or '', 'dataset')}"
        )
    if is_pattern(str(path)) and not path.exists():
        found = [found for name in expand_braces(str(path)) for found in sorted(glob.glob(name, recursive=True))]
        if not found:
            raise UserError(f"--source {path}: no file matches this pattern")
        return [Location(Path(name)) for name in dict.fromkeys(found)]
    return [_in_folder(kind, path) if path.is_dir() and kind in ("parquet", "webdataset") else Location(path)]


def is_on_hub(path: Path) -> bool:
    """Returns whether a path is an address on the Hugging Face Hub, or the web page of a data set there."""
    return is_address(path) or _PAGE.match(str(path)) is not None


def _in_folder(kind: str, folder: Path) -> Location:
    """Returns the location of a folder, which may be a copy of a repository with a card."""
    card = read_card(folder)
    if not any(subset.patterns for subset in card.subsets):
        return Location(folder, card, notes=card.notes)
    names = [
        Path(parent, entry.name).relative_to(folder).as_posix()
        for parent, entries in walk(folder)
        for entry in entries or ()
        if not is_folder(entry)
    ]
    choice = choose_files(_wanted(kind, names), card.subsets, str(folder), local=True)
    splits = {folder / name: split for name, split in choice.splits.items()}
    return Location(folder, card, choice.subset, splits, (*card.notes, *choice.notes))


def _on_hub(kind: str, address: Address, labels: Labels) -> Location:
    if kind not in _WANTED:
        raise UserError(
            f"{address}: the kind {kind} reads local files; data sets on the hub are read by the kinds "
            f"{', '.join(_WANTED)}"
        )
    if kind == "parquet":
        import_arrow()  # raises `UserError` before anything is downloaded
    root = dataclasses.replace(address, path="")
    listing = list_files(root)
    snapshot = fetch_files(root, listing, [name for name in CARD_FILES if name in listing.sizes])
    card = read_card(snapshot)
    names = [name for name in _wanted(kind, listing.sizes) if not is_hidden(name)]
    if not names:
        kinds = abbreviated(sorted({PurePosixPath(name).suffix or "no suffix" for name in listing.sizes}), 5)
        todo = f"; give {root.root}@{_CONVERTED}, Parquet files that the hub makes of most data sets"
        raise UserError(
            f"{root} contains no {_WANTED[kind][1]}; its files have the suffixes {kinds}"
            f"{'' if (root.revision or '').startswith('refs/convert') or kind == 'webdataset' else todo}"
        )
    subsets = card.subsets
    if not any(subset.patterns for subset in subsets):
        subsets = folders_as_subsets(names, by_first=(root.revision or "").startswith("refs/convert"))
    choice = choose_files(names, subsets, str(root), path=address.path)
    if kind == "imagenet1k":
        choice = _without_tests(choice)
    chosen = sorted(choice.splits)
    size = shown_size(sum(listing.sizes[name] for name in chosen))
    print(f"{address}: {len(chosen)} files, {size}, commit {listing.commit}", flush=True)
    if rows := next((name for name in chosen if _is_parquet(name)), None):
        label_column(parquet(fetch_files(root, listing, [rows]) / rows), labels)  # raises `UserError`
    fetch_files(root, listing, chosen, partial(ProgressPrinter, "downloaded"))
    digest = hashlib.sha256("\0".join(chosen).encode()).hexdigest()[:12]
    folder = linked(root, listing, chosen, f"{kind}-{digest}")
    splits = {folder / name: split for name, split in choice.splits.items()}
    return Location(folder, card, choice.subset, splits, (*card.notes, *choice.notes))


def _is_tar(name: str) -> bool:
    return is_tar(name)


def _is_parquet(name: str) -> bool:
    return is_parquet(Path(name))


# Test of a file name, and the name of such files in messages, by kind.
_WANTED: dict[str, tuple[Callable[[str], bool], str]] = {
    "parquet": (_is_parquet, "Parquet files"),
    "webdataset": (_is_tar, "WebDataset shards"),
    "imagenet1k": (lambda name: _is_parquet(name) or _is_tar(name), "Parquet files or tars"),
}


def _wanted(kind: str, names: Collection[str]) -> list[str]:
    """Returns the names of the files that a kind reads; for ImageNet-1K, tars only if there are no Parquet files."""
    is_wanted, _ = _WANTED[kind]
    found = [name for name in names if is_wanted(name)]
    rows = [name for name in found if _is_parquet(name)] if kind == "imagenet1k" else []
    return rows or found


def _without_tests(choice: Choice) -> Choice:
    """Returns a choice without ImageNet-1K's test files, which have no labels; unchanged if it has only test files."""
    tests = {name for name, split in choice.splits.items() if split == "test" or _splits_in(name) == {"test"}}
    if not tests or len(tests) == len(choice.splits):
        return choice
    kept = {name: split for name, split in choice.splits.items() if name not in tests}
    note = f"not downloaded: {len(tests)} files of the split test, whose images have no labels"
    return Choice(kept, choice.subset, (*choice.notes, note))


def _splits_in(name: str) -> set[str]:
    path = PurePosixPath(name)
    return splits_in(tar_stem(path.name) if is_tar(path.name) else path.stem)


def class_names_on_cards(
    locations: Sequence[Location], columns: Sequence[str]
) -> tuple[tuple[str, ...], str] | tuple[None, None]:
    """Returns the class names on the cards, and the name of their file; (None, None) if unknown or different.

    Args:
      locations: locations of a source.
      columns: possible names of the column of labels, in order of preference.
    """
    found = [location.card.class_names(columns, location.subset) for location in locations]
    if not found or None in found or len({names for names, _ in found}) > 1:
        return None, None
    return found[0]


def missing_shards(location: Location, files: Sequence[Path]) -> list[str]:
    """Returns a note if only some of the shards on the card of a location are in `files`, else an empty list."""
    names = {path.name for path in files}
    listed = {PurePosixPath(name).name for name in location.card.shards}
    absent = sorted(listed - names)
    if not absent or len(absent) == len(listed):
        return []
    present = len(listed) - len(absent)
    return [f"note: {present:,} of the {len(listed):,} shards on the card are present; missing: {abbreviated(absent)}"]
