"""Indexes a WebDataset shard: files with the same key form one sample, an image and its label."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from focalnet_jax.data.prepare.containers import OVERWRITTEN, Container, File, files
from focalnet_jax.data.prepare.image_classes import (
    listed_synset,
    place_imagenet,
    place_labelled,
    proven_synset,
    synset_folder,
)
from focalnet_jax.data.prepare.images import sample_key
from focalnet_jax.data.prepare.index import CONTRADICTION, GOOD, NO_LABEL, OUTSIDE, TEST, Claim, Index, Member
from focalnet_jax.data.prepare.labels import Labels, label_text, synsets_named
from focalnet_jax.data.prepare.naming import SPLITS, has_image_suffix
from focalnet_jax.data.source import are_numbers

_LONGEST_LABEL = 1 << 20  # largest label file, in bytes
_LABEL_FILES = ("cls", "label", "cls.txt", "json", "txt")
# Keys of the label in a .json. Names take precedence over numbers, and earlier keys over later ones.
_NAME_KEYS = ("synset", "wnid", "class_name", "label_name", "classname")
_LABEL_KEYS = ("label", "cls", "class", "class_id", "label_id", "class_index", "target", "category")
LABEL_COLUMNS = ("cls", *_NAME_KEYS, *_LABEL_KEYS)  # names of columns of labels in descriptions of data sets
_FILE_KEYS = ("filename", "file_name", "path")
# Words in the suffixes of images that are not the main image of a sample, such as depth.png.
_MAPS = frozenset(
    {"alpha", "depth", "disparity", "edge", "edges", "flow", "label", "labels", "mask", "masks", "normal", "normals"}
    | {"seg", "segm", "segmentation", "semantic", "thumb", "thumbnail"}
)
TEXT_LABELS = "labels from .txt"  # key in `Index.skipped`; these labels may be captions


def index_samples(container: Container, labels: Labels, spool: BinaryIO | None = None) -> Index:
    """Returns the index of a WebDataset shard.

    The label is the content of `.cls`, `.label` or `.cls.txt`, else a key such as `label` in `.json`, else the content
    of `.txt`. If `.cls` is a number and `.json` contains a class name, the label is the class name.

    Raises:
      UserError: the tar is damaged or unsafe.
    """
    skipped: Counter[str] = Counter()
    images: dict[str, list[File]] = {}
    label_files: dict[str, dict[str, bytes]] = {}
    relabelled: set[str] = set()  # keys with two different files of the same type, such as in joined shards
    for file in files(container, skipped, spool):
        kind = file.name.rpartition("/")[2].partition(".")[2].lower()
        key = sample_key(file.name)
        if has_image_suffix(file.name):
            same = images.setdefault(key, [])
            skipped[OVERWRITTEN] += sum(other.name == file.name for other in same)
            images[key] = [*(other for other in same if other.name != file.name), file._replace(read=bytes)]
            continue
        skipped[f".{kind}" if kind else "no suffix"] += 1
        if kind in _LABEL_FILES and file.size <= _LONGEST_LABEL:
            content = file.read()
            if label_files.setdefault(key, {}).setdefault(kind, content) != content:
                relabelled.add(key)
            label_files[key][kind] = content
    members, claims = [], Counter()
    for key, found in images.items():
        # A label belongs to its image, so it is not a file that is left out.
        skipped.subtract(f".{kind}" for kind in _with_label(label_files.get(key, {})))
        image = _main_image(found)
        for other in found:
            if other is not image:
                skipped[f".{other.name.rpartition('/')[2].partition('.')[2].lower()} beside the image"] += 1
        if key in relabelled and len(found) > 1:  # if the images have the same name, the last image and label count
            name, split = "/".join(_path(image.name, {})), SPLITS.index(container.split or "train")
            members.append(Member(image.name, image.offset, image.size, image.time, "", split, name, CONTRADICTION))
            continue
        members.append(_member(container, labels, image, label_files.get(key, {}), skipped, claims))
    return Index.of(members, +skipped, claims)


def has_label(file: File) -> bool:
    """Returns whether a .json file has a label."""
    return file.size <= _LONGEST_LABEL and _in_json(_described(file.read())) is not None


def _main_image(found: list[File]) -> File:
    """Returns the main image of a sample: jpg rather than seg.png, rgb.jpg rather than depth.png, else the first."""

    def rank(file: File) -> tuple[int, bool]:
        kinds = file.name.rpartition("/")[2].lower().split(".")[1:]
        return len(kinds), any(word in _MAPS for kind in kinds[:-1] for word in re.split(r"[^a-z]+", kind))

    return min(found, key=rank)


def _member(
    container: Container,
    labels: Labels,
    image: File,
    label_files: dict[str, bytes],
    skipped: Counter[str],
    claims: Counter[Claim],
) -> Member:
    """Returns a sample as a member of the index, and adds its label to `claims`.

    Args:
      container: the shard.
      labels: interpretation of the labels.
      image: main image of the sample.
      label_files: contents of the sample's label files, by suffix.
      skipped: receives the number of labels from .txt files.
      claims: receives the label, its class, and the class that other names of the image prove.
    """
    described = _described(label_files.get("json"))
    raw, number, why_not = _raw_label(label_files, described)
    skipped[TEXT_LABELS] += raw is not None and _with_label(label_files) == {"txt"}
    name, why_not = labels.class_of(raw) if why_not == GOOD else ("", why_not)
    parts = _path(image.name, described)
    split = container.split or "train"
    listed = listed_synset(labels, parts, split)
    if why_not in (GOOD, OUTSIDE):
        proven, beside = proven_synset(parts, listed, name), _named_beside(labels, label_files, described)
        is_number = are_numbers([label_text(raw)])
        claims[Claim(label_text(raw), name, proven, False, beside if is_number else "")] += 1
        if number is not None and not is_number and beside:
            claims[Claim(str(number), labels.class_of(number)[0], proven, False, beside, used=False)] += 1
    file = "/".join(parts)
    if container.imagenet and why_not in (GOOD, NO_LABEL):
        synsets = synsets_named(name) if name else None
        # The number decides between the synsets of an ambiguous name such as crane.
        numbered = labels.class_of(number)[0] if synsets and len(synsets) > 1 else None
        candidates = [synsets, numbered, synset_folder(parts), listed]
        name, file, why_not = place_imagenet(parts, candidates, test=split == "test")
    elif why_not == GOOD:
        name, file, why_not = place_labelled(name, parts)
    elif why_not == NO_LABEL and split == "test":
        why_not = TEST
    return Member(image.name, image.offset, image.size, image.time, name, SPLITS.index(split), file, why_not)


def _with_label(label_files: Mapping[str, bytes]) -> set[str]:
    """Returns the suffixes of the files with a sample's label; a .txt is a caption if another file has a label."""
    found = label_files.keys() & {"cls", "label", "cls.txt"}
    if _in_json(_described(label_files.get("json"))) is not None:
        found = found | {"json"}
    return found or label_files.keys() & {"txt"}


def _named_beside(labels: Labels, label_files: dict[str, bytes], described: dict[str, Any]) -> str:
    """Returns the class name in a sample's .json, .cls or .txt, or "" if none of them contains a known class name.

    Numeric labels are ignored.
    """
    named = [described.get(key) for key in _NAME_KEYS]
    named += [label_files[kind].decode(errors="replace") for kind in _LABEL_FILES if kind in label_files]
    for name in (" ".join(value.split()) for value in named if isinstance(value, str)):
        if name and not are_numbers([name]) and labels.lists(name):
            return name
    return ""


def _path(name: str, described: dict[str, Any]) -> tuple[str, ...]:
    """Returns the parts of the original path of a sample's image: from its .json, else from its key and suffix."""
    stated = next((described[key] for key in _FILE_KEYS if isinstance(described.get(key), str)), None)
    key = PurePosixPath(sample_key(name))
    suffix = "." + name.rpartition(".")[2]
    if stated:
        path = PurePosixPath(stated.replace("\\", "/"))
        if path.name and not path.is_absolute() and ".." not in path.parts:
            return path.parts
    return PurePosixPath(f"{key}{suffix}").parts


def _described(content: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(content) if content else {}
        found = found if isinstance(found, dict) else {}
        "".join(
            value for value in found.values() if isinstance(value, str)
        ).encode()  # raises for an unpaired surrogate
    except (ValueError, RecursionError):
        return {}
    return found


def _in_json(described: dict[str, Any]) -> int | str | None:
    """Returns the label in the content of a .json, or None if it is missing."""
    for key in (*_NAME_KEYS, *_LABEL_KEYS):
        value = described.get(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int | str) and not isinstance(value, bool) and value != "":
            return value
    return None


def _raw_label(label_files: dict[str, bytes], described: dict[str, Any]) -> tuple[int | str | None, int | None, int]:
    """Returns a sample's label, the number in its files, and an index in `WHY_NOT`; None if missing."""
    try:
        texts = {kind: content.decode().strip() for kind, content in label_files.items() if kind != "json"}
    except UnicodeDecodeError:
        return None, None, NO_LABEL
    text = next((texts[kind] for kind in ("cls", "label", "cls.txt") if texts.get(kind)), None)
    in_json = _in_json(described)
    numbers = {
        int(str(value)) for value in (text, *_numbers(described)) if are_numbers([str(value)]) and len(str(value)) < 10
    }
    if len(numbers) > 1:
        return None, None, CONTRADICTION
    number = numbers.pop() if numbers else None
    if text is not None and not (are_numbers([text]) and isinstance(in_json, str)):
        return text, number, GOOD
    if in_json is not None:
        return in_json, number, GOOD
    return texts.get("txt") or None, number, GOOD


def _numbers(described: dict[str, Any]) -> list[int | str]:
    """Returns labels in a .json that may be class numbers; ignores "category", which may be numbered differently."""
    values = [described.get(key) for key in _LABEL_KEYS if key != "category"]
    values = [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
    return [value for value in values if isinstance(value, int | str) and not isinstance(value, bool)]
