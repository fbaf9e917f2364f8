"""Prepares ADE20K's SceneParse150 from its zip archive, which is read in place.

The archive ADEChallengeData2016.zip contains `images/{training,validation}/NAME.jpg`, masks
`annotations/{training,validation}/NAME.png` with the labels 0 (no class) to 150, and `objectInfo150.txt`. The archive
annotations_instance.tar contains `annotations_instance/{training,validation}/NAME.png`, whose red channel is the class
of an object and whose green channel is its number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from zipfile import ZipInfo

from focalnet_jax.data.prepare.containers import files, first_bytes, opener_of, tar
from focalnet_jax.data.prepare.kinds import check_paths
from focalnet_jax.data.prepare.labels import Labels
from focalnet_jax.data.prepare.locations import locate
from focalnet_jax.data.prepare.naming import is_hidden
from focalnet_jax.data.prepare.zips import Zip
from focalnet_jax.data.segment_classes import ade20k_classes
from focalnet_jax.errors import UserError

NUM_IMAGES = {"train": 20_210, "val": 2_000}
_SPLITS = {"training": "train", "validation": "val"}
_MEMBER = re.compile(r"(?:.*/)?(images|annotations)/(training|validation)/([^/]+)\.(jpg|png)")
_INSTANCES = re.compile(r"(?:.*/)?annotations_instance/(training|validation)/([^/]+)\.png")
_CLASS_LIST = "objectInfo150.txt"
_EXPECTED = "ADEChallengeData2016.zip, and for instances also annotations_instance.tar, as downloaded"


@dataclass(frozen=True)
class Pair:
    """An image and its mask in the archive.

    Attributes:
      name: file name of the image.
      split: train or val.
      image: name of the image in the archive.
      mask: name of the mask in the archive.
      size: bytes of image, mask and instances.
      digest: checksums of image and mask in the archive.
      instances: first byte and size of the instances in the tar, or None.
    """

    name: str
    split: str
    image: str
    mask: str
    size: int
    digest: str
    instances: tuple[int, int] | None = None


@dataclass(frozen=True)
class Ade20k:
    """The archives and their contents.

    Attributes:
      archive: the zip archive.
      instances: the tar of instances, or None.
      pairs: images with masks, sorted by split and name.
      alone: (split, name, reason) of each image without a mask and each mask without an image.
      left_out: number of other files by kind.
      files: number of all files in the zip archive.
    """

    archive: Path
    instances: Path | None
    pairs: tuple[Pair, ...]
    alone: tuple[tuple[str, str, str], ...] = ()
    left_out: Counter[str] = field(default_factory=Counter)
    files: int = 0


def find_ade20k(paths: Sequence[Path]) -> Ade20k:
    """Returns the contents of the archives at `paths`.

    Raises:
      UserError: an archive is missing, damaged or not one of ADE20K's, or its classes are not the 150 of SceneParse150.
    """
    paths = [location.path for path in paths for location in locate("ade20k", path, Labels())]
    check_paths(paths)
    folders = [path for path in paths if path.is_dir()]
    if folders:
        raise UserError(
            f"--source {folders[0]} is a folder; expected {_EXPECTED}. Train on the unpacked folder without preparing "
            f"it: --config.data.source=folder --config.data.path={folders[0]} --config.data.classes=ade20k "
            "--config.data.train_split=training --config.data.eval_split=validation"
        )
    tars = [path for path in paths if not first_bytes(path).startswith(b"PK") and path.suffix != ".zip"]
    zips = [path for path in paths if path not in tars]
    if len(zips) != 1 or len(tars) > 1:
        raise UserError(f"--source {' '.join(map(str, paths))}: expected {_EXPECTED}")
    found = _index_zip(zips[0])
    return _with_instances(found, tars[0]) if tars else found


def _index_zip(path: Path) -> Ade20k:
    images: dict[tuple[str, str], ZipInfo] = {}
    masks: dict[tuple[str, str], ZipInfo] = {}
    left_out = Counter()
    with Zip(path) as archive:
        for info in archive.members:
            if PurePosixPath(info.filename).name == _CLASS_LIST:
                _check_classes(path, archive.read(info.filename).decode(errors="replace"))
                continue
            match = _MEMBER.fullmatch(info.filename)
            if match is None or is_hidden(info.filename):
                kind = "hidden" if is_hidden(info.filename) else PurePosixPath(info.filename).suffix
                left_out[kind or "without suffix"] += 1
                continue
            kind, split, stem, _ = match.groups()
            of = images if kind == "images" else masks
            if (_SPLITS[split], stem) in of:
                raise UserError(f"{path} contains {info.filename} twice: expected {_EXPECTED}")
            of[_SPLITS[split], stem] = info
    if not images or not masks:
        raise UserError(
            f"{path} contains {len(images)} images in images/training and images/validation and {len(masks)} masks in "
            f"annotations/training and annotations/validation; expected {_EXPECTED} (the archive of the full ADE20K, "
            "with 3,000 classes, is another one)"
        )
    pairs = [
        Pair(
            PurePosixPath(images[key].filename).name,
            key[0],
            images[key].filename,
            masks[key].filename,
            images[key].file_size + masks[key].file_size,
            f"{images[key].CRC:08x} {masks[key].CRC:08x}",
        )
        for key in sorted(images.keys() & masks.keys())
    ]
    alone = [(split, f"{stem}.jpg", "it has no mask") for split, stem in sorted(images.keys() - masks.keys())]
    alone += [(split, f"{stem}.png", "the mask has no image") for split, stem in sorted(masks.keys() - images.keys())]
    return Ade20k(path, None, tuple(pairs), tuple(alone), left_out, len(archive.members))


def _check_classes(path: Path, text: str) -> None:
    """Raises `UserError` if the class list in the archive differs from the built-in one."""
    rows = [line.split("\t") for line in text.splitlines()[1:] if line.strip()]
    names = [row[-1].strip() for row in rows]
    built_in = ade20k_classes().names
    differing = [
        f"{number + 1} is {theirs!r}, not {ours!r}"
        for number, (theirs, ours) in enumerate(zip(names, built_in, strict=False))
        if ours not in [name.strip() for name in theirs.split(",")]
    ]
    if len(names) != len(built_in) or differing:
        what = differing[0] if differing else f"there are {len(names)}, not {len(built_in)}"
        raise UserError(f"{path}: the classes in {_CLASS_LIST} are not those of SceneParse150: {what}")


def _with_instances(found: Ade20k, path: Path) -> Ade20k:
    """Returns `found` with the places of the instances in the tar `path`.

    Raises:
      UserError: the tar is compressed or damaged, or lacks the instances of an image.
    """
    if opener_of(path) is not None:
        raise UserError(f"{path} is compressed: expected annotations_instance.tar as downloaded; unpack it once")
    places = {}
    for file in files(tar(path), Counter()):
        if match := _INSTANCES.fullmatch(file.name):
            places[_SPLITS[match[1]], match[2]] = (file.offset, file.size)
    pairs, missing = [], []
    for pair in found.pairs:
        place = places.get((pair.split, PurePosixPath(pair.name).stem))
        if place is None:
            missing.append(pair.name)
        else:
            pairs.append(replace(pair, size=pair.size + place[1], instances=place))
    if missing:
        raise UserError(
            f"{path} lacks the instances of {len(missing)} images, such as {missing[0]}: download it again, or prepare "
            "without it"
        )
    return replace(found, instances=path, pairs=tuple(pairs))
