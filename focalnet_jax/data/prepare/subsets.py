"""Chooses the files of a data set that has several subsets, such as the configs in a card of the Hugging Face Hub."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from focalnet_jax.data.prepare.cards import Subset
from focalnet_jax.data.prepare.naming import holds_images_only, is_tar, splits_in, tar_stem
from focalnet_jax.data.prepare.patterns import is_pattern, matches
from focalnet_jax.data.split_names import SPLIT_NAMES, split_named
from focalnet_jax.errors import UserError, abbreviated, suggest

_MOST_NAMED = 10
_PART = re.compile(r"(?:part|shard|chunk)?[-_]?\d+")  # names of folders that contain a part of the files


@dataclass(frozen=True)
class Choice:
    """The files of a subset.

    Attributes:
      splits: split of each file, or "" if its name contains the split.
      subset: name of the subset, or "".
      notes: lines for the user.
    """

    splits: Mapping[str, str]
    subset: str = ""
    notes: tuple[str, ...] = ()


def choose_files(
    names: Collection[str], subsets: Sequence[Subset], title: str, *, path: str = "", local: bool = False
) -> Choice:
    """Returns the files of a folder, of a pattern, or of a subset.

    Args:
      names: paths of the files in the repository.
      subsets: subsets of the repository.
      title: address of the repository or path of the folder, for messages.
      path: a folder, a file, a pattern or the name of a subset in the address; "" for the only or default subset.
      local: whether the files are in a local folder.

    Raises:
      UserError: nothing has this path, or there are several subsets and none is the default.
    """
    if path:
        inside = [name for name in names if name == path or name.startswith(f"{path}/")]
        inside = inside or [name for name in names if is_pattern(path) and matches(path, name)]
        if not inside and (chosen := next((subset for subset in subsets if subset.name == path), None)):
            return _with_known_splits(_files_of(chosen, names), path)
        if not inside:
            raise UserError(_missing(names, subsets, title, path))
        names = inside
    found = {subset.name: _files_of(subset, names) for subset in subsets}
    found = {name: files for name, files in found.items() if files}
    if not found:
        return Choice(dict.fromkeys(names, ""))
    unlisted = [name for name in names if not any(name in files for files in found.values())]
    whole = [name for name, files in found.items() if len(files) == len(names)]
    if path and whole:  # the files were chosen by their path; the subset only names their splits
        return _with_known_splits(found[whole[0]], whole[0] if len(whole) == 1 else "")
    if len({tuple(sorted(files.items())) for files in found.values()}) == 1:
        name = next(iter(found))
        return _with_known_splits(found[name], name, unlisted)
    default = [subset.name for subset in subsets if subset.default and subset.name in found]
    default = default or [name for name in found if name == "default"]
    if len(default) != 1:
        example = min(found)
        todo = f"give one of them, such as {title}/{example}"
        if local:
            todo = f"give the files of one of them, such as {_example(subsets, example, title)}"
        raise UserError(f"{title} has several subsets, {abbreviated(sorted(found), _MOST_NAMED)}: {todo}")
    others = abbreviated(sorted(found.keys() - set(default)), _MOST_NAMED)
    choice = _with_known_splits(found[default[0]], default[0], unlisted)
    note = f"the subset {default[0]} is read, the default of {title}; others: {others}"
    return Choice(choice.splits, choice.subset, (note, *choice.notes))


def _missing(names: Collection[str], subsets: Sequence[Subset], title: str, path: str) -> str:
    """Returns the error message for a path that is neither a file, a folder nor a subset."""
    folders = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents} - {"."}
    folders |= {subset.name for subset in subsets}
    held = abbreviated(sorted(folders) or sorted(names), _MOST_NAMED)
    return f"{title} has no folder, file or subset {path}; it has {held}.{suggest(path, {*folders, *names})}"


def _example(subsets: Sequence[Subset], name: str, title: str) -> str:
    return next(f"{title}/{subset.patterns[0][1]}" for subset in subsets if subset.name == name)


def _files_of(subset: Subset, names: Collection[str]) -> dict[str, str]:
    """Returns the split of each file of a subset; a subset without patterns contains all files."""
    if not subset.patterns:
        return dict.fromkeys(names, "")
    splits = {name: subset.split_of(name) for name in names}
    return {name: split for name, split in splits.items() if split is not None}


def _with_known_splits(files: Mapping[str, str], subset: str, unlisted: Sequence[str] = ()) -> Choice:
    """Returns the files whose split is train, val, test or not stated, and notes on the files that are left out."""
    kept, others = {}, Counter()
    for name, split in files.items():
        known = SPLIT_NAMES.get(split.lower()) or split_named(split) if split else ""
        if known is None:
            others[split] += 1
        else:
            kept[name] = known
    if not kept:
        raise UserError(
            f"the subset {subset} has only the splits {abbreviated(sorted(others))}; expected train, validation or "
            "test: give the files of each, in folders train and val"
        )
    notes = [f"not read: {count} files of the split {split}" for split, count in sorted(others.items())]
    if unlisted:
        notes.append(f"not read: {len(unlisted)} files that are in no subset of the card, such as {unlisted[0]}")
    return Choice(kept, subset, tuple(notes))


def folders_as_subsets(names: Collection[str], *, by_first: bool) -> list[Subset]:
    """Returns the subsets of a repository without a card, or an empty list if it seems to have only one.

    Folders are subsets if two of them contain the same split. Folders named after splits, images or numbers are not
    subsets.

    Args:
      names: paths of the files.
      by_first: whether each top folder is a subset.
    """
    groups: dict[str, set[str]] = {}
    for name in names:
        folders = PurePosixPath(name).parts[:-1]
        stem = PurePosixPath(name).name
        splits = splits_in(tar_stem(stem) if is_tar(stem) else PurePosixPath(stem).stem)
        splits |= set(filter(None, map(split_named, folders)))
        kept = [
            part
            for part in folders
            if not (split_named(part) or holds_images_only(part) or part == "default" or _PART.fullmatch(part.lower()))
        ]
        key = folders[0] if by_first and folders else "/".join(kept)
        groups.setdefault(key, set()).update(splits)
    repeated = Counter(split for splits in groups.values() for split in splits)
    if len(groups) < 2 or not (by_first or any(count > 1 for count in repeated.values())):
        return []
    return [Subset(key or ".", ((None, f"{key}/**" if key else "*"),)) for key in sorted(groups)]
