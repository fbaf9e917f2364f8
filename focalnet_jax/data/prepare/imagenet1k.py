"""Finds ImageNet-1K in any layout: the original tars, Kaggle's folders, files of the Hugging Face Hub, WebDataset.

All layouts result in the same data set. The class of an image is known from the name of its folder or tar (a synset),
from its file name, or from the label of its sample or row. For validation images it is also known from the label list.
If two of these disagree, the image is rejected.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from focalnet_jax.data.prepare.class_tars import tar_at
from focalnet_jax.data.prepare.containers import Container, parquet, tar
from focalnet_jax.data.prepare.folders import entries_of, refuse_archives
from focalnet_jax.data.prepare.inspection import inspect_tar
from focalnet_jax.data.prepare.labels import Labels, synset_named
from focalnet_jax.data.prepare.naming import (
    SPLITS,
    has_image_suffix,
    imagenet_file,
    is_evaluation_file,
    is_synset,
    is_tar,
    missing_parts,
    splits_in,
    tar_stem,
)
from focalnet_jax.data.prepare.rows import class_names_in, is_parquet
from focalnet_jax.data.prepare.val_labels import (
    FORMS,
    ValLabels,
    agreed_val_labels,
    find_val_labels,
    read_val_labels,
)
from focalnet_jax.data.split_names import split_named
from focalnet_jax.errors import UserError

EXPECTED = (
    "expected a folder with ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, Kaggle's folder with "
    "ILSVRC/Data/CLS-LOC, train and val folders, or the tars, shards or Parquet files of both splits"
)
IMAGENET_ORDER = "as indices of the sorted synsets, from 0"
_KAGGLE = ("CLS-LOC", "Data", "ILSVRC")  # Kaggle's path ILSVRC/Data/CLS-LOC, reversed; label lists are next to ILSVRC
# Words in the names of tars that are not read: tars without images, and train_t3, which repeats the images of dogs.
_NO_IMAGES = re.compile(r"devkit|bbox|_t3|(?<![a-z])patch(?![a-z])", re.IGNORECASE)

# (layout, container) by split; the key None is for a tar with several splits
ContainersBySplit = dict[str | None, list[tuple[str, Container]]]


def find_imagenet1k(
    paths: Sequence[Path],
    val_labels: Path | None,
    columns: tuple[str | None, str | None] = (None, None),
    *,
    held_out: bool = False,
) -> tuple[list[Container], ValLabels | None, list[str]]:
    """Returns the containers of all splits, the label list of the validation images or None, and notes for the user.

    Args:
      paths: files and folders of the sources.
      val_labels: label list of the validation images, or None to search for it next to the images.
      columns: columns of images and of labels in Parquet files, or None to find them by type and name.
      held_out: whether training images are moved to the split val; the sources may then lack val.

    Raises:
      UserError: a split is missing or present twice, or the validation images have no labels.
    """
    found: ContainersBySplit = defaultdict(list)
    loose, visited, archives, notes = [], [], [], []
    for path in paths:
        root, above = _root(path.resolve() if path.is_dir() else path)
        visited += above
        if root.is_file():
            _add_file(found, root, None)
            continue
        folders, tars, others = entries_of(root)
        archives += others
        if split_named(root.name) and not _hold_splits(folders, tars + others):
            _add_folder(found, root, split_named(root.name))
            continue
        for folder in folders:
            if split_named(folder.name):
                _add_folder(found, folder, split_named(folder.name))
            elif is_synset(folder.name):
                found["train"].append(("folders", _synset_folder(folder, "train")))
            else:
                notes.append(f"not read: {folder}")
        for entry in [*tars, *(entry for entry in others if is_parquet(entry))]:
            if _NO_IMAGES.search(entry.name):
                notes.append(f"not read: {entry}")
            else:
                _add_file(found, entry, None)
        if any(not is_parquet(entry) for entry in others):
            loose.append(Container(str(root), imagenet=True, direct=True))
    source = " ".join(map(str, paths))
    wanted = ("train",) if held_out else ("train", "val")
    absent = [split for split in wanted if not found[split] and not found[None]]
    if absent:
        refuse_archives(archives)
        unread = f" ({'; '.join(notes)})" if notes else ""
        raise UserError(f"--source {source} contains no images of {' and '.join(absent)}{unread}: {EXPECTED}")
    for split in SPLITS:
        containers = found[split] + found[None]
        layouts = sorted({layout for layout, _ in containers})
        if len(layouts) > 1 and not _are_apart(containers):
            raise UserError(
                f"--source {source} contains {split} more than once, as {' and as '.join(layouts)}: give one of them"
            )
    val = [container for _, container in found["val"] + found[None]]
    needed = _needs_labels(val)
    if val_labels is not None:
        listed, errors = read_val_labels(val_labels), []
    elif not val:
        listed, errors = None, []
    else:
        visited += [Path(container.path) for container in val if container.size is None]
        listed, errors = agreed_val_labels(find_val_labels(list(dict.fromkeys(visited))))
    if listed is None and needed:
        if errors:
            raise errors[0]
        raise UserError(f"{val[0].path} has no labels for its images: give --val-labels FILE, where FILE is {FORMS}")
    notes += [f"label list not used: {error}" for error in errors]
    if listed:
        read = {f"not read: {path}" for path in (listed.path, *listed.path.parents)}
        notes = [*(note for note in notes if note not in read), f"labels of val: {listed.path}"]
    every = [(layout, container) for split in found.values() for layout, container in split]
    notes += missing_parts({Path(container.path): None for _, container in every if container.size is not None})
    if any(
        layout == "WebDataset shards"
        or (container.holds == "rows" and class_names_in(container, Labels(None, None, *columns)) is None)
        for layout, container in every
    ):
        notes.append(f"numeric labels are read {IMAGENET_ORDER}")
    return [container for split in found.values() for _, container in split] + loose, listed, notes


def _hold_splits(folders: Sequence[Path], files: Sequence[Path]) -> bool:
    """Returns whether any folder or file is named after a split."""
    stems = [
        tar_stem(path.name) if is_tar(path.name) else path.stem
        for path in files
        if is_tar(path.name) or is_parquet(path)
    ]
    return any(split_named(folder.name) for folder in folders) or any(map(splits_in, stems))


def _are_apart(containers: Sequence[tuple[str, Container]]) -> bool:
    """Returns whether all containers are folders and tars of different synsets, as when some tars were unpacked."""
    names = [container.class_name for _, container in containers if not container.direct]
    apart = {layout for layout, _ in containers} == {"folders", "tars of synsets"}
    return apart and None not in names and len(set(names)) == len(names)


def _root(path: Path) -> tuple[Path, list[Path]]:
    """Returns the root of a source, and the folders to search for label lists.

    The root is `path` if it is a file, else the folder at or below `path` that contains the splits.
    """
    if path.is_file():
        return path, [path.resolve().parent]
    visited = [path]
    for _ in range(4):
        folders, tars, others = entries_of(path)
        names = [entry.name for entry in folders]
        if any(split_named(name) or is_synset(name) for name in names) or tars or any(map(is_parquet, others)):
            break
        inner = [name for name in names if name in (*_KAGGLE, "data", "default")] or names
        if len(inner) != 1:
            break
        path = path / inner[0]
        visited.insert(0, path)
    above = visited[-1]
    if split_named(above.name) and above.parent.name == _KAGGLE[0]:
        above = above.parent
        visited.append(above)
    while above.name in _KAGGLE:
        above = above.parent
        visited.append(above)
    return path, visited


def _synset_folder(folder: Path, split: str) -> Container:
    """Returns the container of a class folder. Its class is None if the name means no synset, or several."""
    name = synset_named(folder.name)
    return Container(str(folder), split=split, class_name=name if is_synset(name) else None, imagenet=True)


def _add_folder(found: ContainersBySplit, folder: Path, split: str) -> None:
    """Adds the folder of a split to `found`: folders or tars of synsets, images, shards or Parquet files."""
    folders, tars, others = entries_of(folder)
    found[split] += [("folders", _synset_folder(entry, split)) for entry in folders]
    for entry in [*tars, *(entry for entry in others if is_parquet(entry))]:
        _add_file(found, entry, split)
    if any(not is_parquet(entry) for entry in others):
        layout = "folders" if any(has_image_suffix(entry.name) for entry in others) or not found[split] else ""
        direct = Container(str(folder), split=split, imagenet=True, direct=True)
        found[split].append((layout or found[split][-1][0], direct))


def _add_file(found: ContainersBySplit, path: Path, split: str | None) -> None:
    """Adds a Parquet file, or a tar of tars, images or samples, to `found`.

    If `split` is None, the split is determined by the names of the file and its folders, or by the paths in the tar.
    """
    stem = tar_stem(path.name) if is_tar(path.name) else path.stem
    if is_synset(stem):
        found[split or "train"].append(
            ("tars of synsets", tar(path, split=split or "train", class_name=stem, imagenet=True))
        )
        return
    named = {split} if split else splits_in(stem) or set(filter(None, map(split_named, path.parts[-3:-1])))
    if split and (others := splits_in(stem) - {split}):
        raise UserError(
            f"{path} is named after {' and '.join(sorted(others))} but is in a folder of {split}: rename or move it"
        )
    if not named and not is_parquet(path):
        inside = inspect_tar(tar(path))
        if named_tars := [name for name in inside.tars if splits_in(tar_stem(name))]:
            raise UserError(
                f"{path} contains one tar per split, such as {named_tars[0]}: unpack {path.name}, but not the tars in "
                "it, and give their folder"
            )
        if any(split_named(part) for name in inside.images for part in name.split("/")[:-1]):
            found[None].append(("a tar of all splits", tar(path, imagenet=True)))
            return
    if len(named) != 1:
        raise UserError(
            f"{path}: its name and folders contain {' and '.join(sorted(named)) or 'no split'}; expected exactly one "
            "of train and val: rename it"
        )
    split = named.pop()
    if is_parquet(path):
        found[split].append(("Parquet files", parquet(path, split=split, imagenet=True)))
        return
    inside = inspect_tar(tar(path))
    if inside.is_shard and not inside.tars:
        found[split].append(("WebDataset shards", tar(path, split=split, imagenet=True, holds="samples")))
    else:
        layout = "tars of synsets" if inside.tars else "tars of images"
        found[split] += [(layout, container) for container in tar_at(path, split, imagenet=True)]


def _needs_labels(containers: Sequence[Container]) -> bool:
    """Returns whether some validation images have no class in their file name or the names of their folders."""
    for container in containers:
        if container.class_name or container.holds != "images":
            continue
        if container.direct and container.size is None:
            names = [entry.name for entry in Path(container.path).iterdir() if has_image_suffix(entry.name)]
        else:
            names = [name for name in inspect_tar(container).images if not any(map(is_synset, name.split("/")))]
            names = [name for name in names if is_evaluation_file(name)] if container.split is None else names
        if any(imagenet_file(name)[1] is None for name in names):
            return True
    return False
