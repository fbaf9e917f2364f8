"""List of the complete files of a local copy, which one process appends to and others follow."""

from __future__ import annotations

import json
import threading
from pathlib import Path


class FinishedFiles:
    """The complete and verified files of a folder, in a file with one JSON object per line.

    A file that was changed or deleted after it was finished does not count.

    Attributes:
      seen: names for which `has` has returned True.
    """

    def __init__(self, folder: Path, path: Path):
        self._folder, self._path = folder, path
        self._lock = threading.Lock()
        self._read = 0  # bytes
        self._stamps: dict[str, tuple[int, int, int]] = {}  # generation, size, modification time
        self.seen: set[str] = set()
        self.update()

    def update(self) -> None:
        """Reads the lines that were added by any process. An incomplete last line is read by a later call."""
        with self._lock:
            try:
                if self._path.stat().st_size <= self._read:
                    return
                with self._path.open("rb") as file:
                    file.seek(self._read)
                    lines = file.read()
            except FileNotFoundError:
                return
            whole = lines[: lines.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.splitlines():
                try:
                    row = json.loads(line)
                    self._stamps[row["name"]] = (row["generation"], row["size"], row["time"])
                except (ValueError, LookupError, TypeError):  # rest of a line that was cut off by a kill
                    continue

    def add(self, name: str, generation: int) -> None:
        """Appends a complete file to the list. Only one process may do this at a time."""
        status = (self._folder / name).stat()
        row = {"name": name, "generation": generation, "size": status.st_size, "time": status.st_mtime_ns}
        with self._lock, self._path.open("ab+") as file:
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # the last line was cut off by a kill
                    file.write(b"\n")
            file.write(json.dumps(row).encode() + b"\n")
        self.update()

    def has(self, name: str, generation: int) -> bool:
        """Returns whether a file was added with this generation of its object, and has not changed since."""
        stamp = self._stamps.get(name)
        if stamp is None or stamp[0] != generation:
            return False
        try:
            status = (self._folder / name).stat()
        except OSError:
            return False
        if (status.st_size, status.st_mtime_ns) != stamp[1:]:
            return False
        self.seen.add(name)
        return True
