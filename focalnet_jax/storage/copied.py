"""Files of a local copy of a folder in a bucket: where they are, and which of them are complete."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from focalnet_jax.storage.address import AnyPath, object_in
from focalnet_jax.storage.files import StoredObject
from focalnet_jax.storage.finished import FinishedFiles


@dataclass
class CopiedFiles:
    """The files of a copy. Other processes may complete files at any time.

    Attributes:
      address: the folder in the bucket.
      folder: the local folder.
      state: folder of the lock, of incomplete files, and of the list of complete ones.
      place: the config key or flag with the folder of all copies, for messages.
      objects: the objects that can be downloaded, by relative name.
      sha256: expected SHA-256 of some objects; the others are compared with the checksum that the bucket stores.
    """

    address: str
    folder: Path
    state: Path
    place: str
    objects: dict[str, StoredObject] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.finished = FinishedFiles(self.folder, self.state / "files.jsonl")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "finished"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.__post_init__()

    def source(self, name: str) -> AnyPath:
        """Returns the address of a file."""
        return object_in(self.address, name)

    def is_ready(self, name: str) -> bool:
        """Returns whether a file is complete, according to the part of the list that this process has read."""
        return self.finished.has(name, self.objects[name].generation)

    def missing_bytes(self, name: str) -> int:
        """Returns the number of bytes of a file that are not on the disk."""
        if self.is_ready(name):
            return 0
        with contextlib.suppress(OSError):
            return max(self.objects[name].size - self.part(name).stat().st_size, 0)
        return self.objects[name].size

    def part(self, name: str) -> Path:
        """Returns the path of an incomplete file, which is different for each generation of the object."""
        return self.state / f"{name_hash(name)}-{self.objects[name].generation}.part"

    def wanted(self, name: str) -> Path:
        """Returns the path of a file that a waiting process writes to request `name` from the downloading process."""
        return self.state / "wanted" / name_hash(name)

    def remove_older_parts(self, name: str) -> None:
        """Deletes incomplete files of objects that were replaced."""
        for older in self.state.glob(f"{name_hash(name)}-*.part"):
            if older != self.part(name):
                older.unlink(missing_ok=True)


def name_hash(text: str) -> str:
    """Returns 16 hexadecimal digits that identify a name."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
