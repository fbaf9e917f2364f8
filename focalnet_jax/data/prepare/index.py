"""The index of a container: where each image lies, what it is called, and its class and split."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Why a member is no example; its place in this list is stored. "" where it may become one.
WHY_NOT = (
    "",
    "no image, by its name",
    "it lies in no class folder",
    "no class: its name says another than its folder or label",
    "no class: no folder, name or list says one",
    "it has no label",
    "its labels contradict each other",
    "its label is outside the list of classes",
    "test images have no labels",
    "its row holds no image",
)
GOOD, NO_IMAGE, NO_FOLDER, OTHER_CLASS, NOT_LISTED, NO_LABEL, CONTRADICTION, OUTSIDE, TEST, EMPTY = range(len(WHY_NOT))
LEFT_OUT = (NO_IMAGE, TEST)  # nothing is wrong with these; the others are images that were rejected


class Member(NamedTuple):
    """A file of a container."""

    name: str  # the path within it
    offset: int  # where its bytes begin in the file that holds them
    size: int
    time: int  # when it was changed last, nanoseconds; 0 in archives
    class_name: str  # "" if it has none
    split: int  # a place in `SPLITS`
    file: str  # what the example is called in the data set, whatever held it
    why_not: int = GOOD


class Index:
    """The members of a container, as a structured array with the fields of `Member`.

    `hash` (uint32) is a fixed random number drawn from the file. `skipped` counts what has no member, by kind.
    """

    def __init__(self, members: np.ndarray, skipped: Mapping[str, int] | None = None):
        self.members = members
        self.skipped = dict(skipped or {})

    @classmethod
    def of(cls, members: Iterable[Member], skipped: Mapping[str, int] | None = None) -> Index:
        """Builds the index of these members."""
        rows = [
            (
                os.fsencode(member.name), member.offset, member.size, member.time, os.fsencode(member.class_name),
                member.split, os.fsencode(member.file), member.why_not, _number(member.file),
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
        return cls(np.array(rows, kind), skipped)

    def __len__(self) -> int:
        return len(self.members)

    def digest(self) -> str:
        """Returns a hash that differs for other members."""
        said = f"{self.members.dtype} {sorted(self.skipped.items())}"
        return hashlib.sha256(self.members.tobytes() + said.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Writes it, whole or not at all."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(self.skipped))
        partial.replace(path.with_suffix(".json"))
        with partial.open("wb") as file:
            np.save(file, self.members)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Index:
        """Returns what `save` wrote, mapped: processes share it, and of a large one only what is used is read."""
        skipped = json.loads(path.with_suffix(".json").read_text())
        members = np.load(path, mmap_mode="r")
        return cls(members, skipped)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=4).digest(), "little")
