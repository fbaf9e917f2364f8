"""The index of a container: location, name, class and split of each image."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from focalnet_jax.system.files import write_whole

# Reasons why a member is not an example; the index of a reason is stored. "" is for members that may be examples.
WHY_NOT = (
    "",
    "not an image, by its name",
    "not in a class folder",
    "no class: its name contradicts its folder or label",
    "no class: not in a folder, name or list",
    "no label",
    "contradictory labels",
    "its label is outside the list of classes",
    "test images have no labels",
    "its row has no image",
    "its label names several classes",
)
GOOD, NO_IMAGE, NO_FOLDER, OTHER_CLASS, NOT_LISTED, NO_LABEL, CONTRADICTION, OUTSIDE, TEST, EMPTY, AMBIGUOUS = range(
    len(WHY_NOT)
)
LEFT_OUT = (NO_IMAGE, TEST)  # not errors; for every other reason an image is rejected


class Member(NamedTuple):
    """A file or row of a container."""

    name: str  # path inside the container, or number of the row
    offset: int  # first byte in the container's file or in the spool file; -1 if the content is in neither
    size: int  # bytes
    time: int  # modification time in nanoseconds; 0 in archives
    class_name: str  # "" if the class is unknown
    split: int  # index in `SPLITS`
    file: str  # name of the example in the data set, the same for every kind of container
    why_not: int = GOOD  # index in `WHY_NOT`


class Claim(NamedTuple):
    """A label, the class that it means, and the class that other names of the same image prove.

    Every label of a sample or row is a claim. If the path of an image proves a synset, its class in the label list, or
    its class folder if this is not a synset, is also a claim.
    """

    label: str
    name: str  # class that the label means; "" if it means none
    proven: str  # synset that the file name, folder or label list proves; "" if nothing proves a synset
    stated: bool  # whether the file contains the class names of its numeric labels
    beside: str = ""  # class name that the sample contains in addition to its number
    used: bool = True  # False for a number that accompanies a class name; the class name is then the label
    split: str = ""  # split of the image; "" for the split of the container


class _Stored(NamedTuple):
    """The members in a file written by NumPy."""

    path: Path
    dtype: np.dtype
    count: int
    offset: int  # first byte of the members

    def mapped(self) -> np.ndarray:
        """Returns the members `[N]`, mapped into memory."""
        return np.memmap(self.path, self.dtype, "r", self.offset, (self.count,))


class Index:
    """The members and labels of a container.

    Attributes:
      members: `[N]` structured array with the fields of `Member`, and `hash` (uint32), a hash of `file`.
      skipped: number of files that are not members, by kind.
      claims: number of images by claim.
    """

    def __init__(
        self,
        members: np.ndarray | _Stored,
        skipped: Mapping[str, int] | None = None,
        claims: Mapping[Claim, int] | None = None,
    ):
        self._members = members
        self.skipped = dict(skipped or {})
        self.claims = dict(claims or {})

    @classmethod
    def of(
        cls,
        members: Iterable[Member],
        skipped: Mapping[str, int] | None = None,
        claims: Mapping[Claim, int] | None = None,
    ) -> Index:
        """Returns the index with these members; the other arguments are described in `Index`."""
        rows = [
            (
                os.fsencode(member.name), member.offset, member.size, member.time, os.fsencode(member.class_name),
                member.split, os.fsencode(member.file), member.why_not, _hash(member.file),
            )
            for member in members
        ]  # fmt: skip
        kind = [
            ("name", f"S{max((len(row[0]) for row in rows), default=1) or 1}"),
            ("offset", np.int64),
            ("size", np.int64),
            ("time", np.int64),
            ("class_name", f"S{max((len(row[4]) for row in rows), default=1) or 1}"),
            ("split", np.int8),
            ("file", f"S{max((len(row[6]) for row in rows), default=1) or 1}"),
            ("why_not", np.int8),
            ("hash", np.uint32),
        ]
        return cls(np.array(rows, kind), skipped, claims)

    @property
    def members(self) -> np.ndarray:
        """The members, `[N]`.

        A loaded index is mapped into memory anew each time, because a mapping keeps a file open: data sets have tens
        of thousands of containers, and a process can often have only 1024 open files.
        """
        return self._members.mapped() if isinstance(self._members, _Stored) else self._members

    def __len__(self) -> int:
        return self._members.count if isinstance(self._members, _Stored) else len(self._members)

    def is_good(self, split: int) -> np.ndarray:
        """Returns whether each member is a usable image of the split `SPLITS[split]`, `[N]` bool."""
        return (self.members["split"] == split) & (self.members["why_not"] == GOOD)

    def class_names(self, split: int | None = None) -> set[str]:
        """Returns the names of the classes with usable images in `SPLITS[split]`, or in any split if it is None."""
        chosen = self.members["why_not"] == GOOD if split is None else self.is_good(split)
        return {name.decode() for name in np.unique(self.members["class_name"][chosen]).tolist()}

    def digest(self) -> str:
        """Returns a hash of the members and of `skipped`."""
        others = f"{self.members.dtype} {sorted(self.skipped.items())}"
        return hashlib.sha256(self.members.tobytes() + others.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Writes the index to `path` and to a .json file next to it; `path` is created only when complete."""
        claims = [[*claim, count] for claim, count in self.claims.items()]
        write_whole(path.with_suffix(".json"), json.dumps([self.skipped, claims]))
        # Streamed, because the index of 14 million images should not be in memory twice.
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, self.members)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Index:
        """Returns the index written by `save`.

        Its members are memory-mapped, so that processes share them and read only the parts that they use.
        """
        skipped, claims = json.loads(path.with_suffix(".json").read_text())
        mapped = np.load(path, mmap_mode="r")
        stored = _Stored(path, mapped.dtype, len(mapped), mapped.offset)
        return cls(stored, skipped, {Claim(*claim): count for *claim, count in claims})


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=4).digest(), "little")
