"""Prints the progress of downloads: files, bytes, speed and remaining time."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from focalnet_jax.errors import shown_size

_EVERY_SECONDS = 5.0
_WARNING_SECONDS = 60.0


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


class DownloadProgress:
    """Counts the files and bytes of a folder that arrive, and prints a line to stderr every few seconds.

    Args:
      address: the folder in the bucket.
      folder: the local folder.
    """

    def __init__(self, address: str, folder: Path):
        self._address, self._folder = address, folder
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}
        self._examples = 0
        self._done: set[str] = set()
        self._bytes = 0  # received by this process
        self._begun: float | None = None
        self._shown, self._warned = 0.0, -math.inf

    def add(self, examples: int, sizes: Mapping[str, int]) -> None:
        """Adds files to download, with their sizes in bytes and the number of examples in all of them."""
        with self._lock:
            self._examples += examples
            self._sizes |= sizes

    def arrived(self, size: int) -> None:
        """Adds bytes that have arrived."""
        with self._lock:
            self._bytes += size

    def finished(self, name: str) -> None:
        """Adds a complete file."""
        with self._lock:
            if name not in self._sizes or name in self._done:
                return
            self._done.add(name)
            is_last = self._begun is not None and len(self._done) == len(self._sizes)
        if is_last:
            self._print("complete in {seconds:.0f} s")

    def show(self) -> None:
        """Prints a line if the last line is several seconds old."""
        now = time.monotonic()
        if len(self._done) == len(self._sizes):
            return
        if self._begun is None:
            self._begun = self._shown = now
            total = sum(self._sizes.values())
            print(
                f"data       {_files(len(self._sizes))}, {shown_size(total)}, of {self._address} to copy to "
                f"{self._folder}",
                file=sys.stderr,
                flush=True,
            )
        elif now - self._shown > _EVERY_SECONDS:
            self._shown = now
            self._print("{left} left")

    def warn(self, why: str) -> None:
        """Prints a warning about a failed request, at most once per minute."""
        now = time.monotonic()
        with self._lock:
            if now - self._warned < _WARNING_SECONDS:
                return
            self._warned = now
        print(f"warning: cannot read {self._address} ({why}); trying again", file=sys.stderr, flush=True)

    def _print(self, end: str) -> None:
        with self._lock:
            total, done = sum(self._sizes.values()), sum(self._sizes[name] for name in self._done)
            done = min(max(done, self._bytes), total)  # with the bytes of incomplete files
            seconds = max(time.monotonic() - (self._begun or 0.0), 1e-3)
            speed = self._bytes / seconds
            left = f"{(total - done) / speed:.0f} s" if speed else "unknown time"
            images = f", {speed * self._examples / total:,.0f} images/s" if self._examples and total else ""
            print(
                f"data       {len(self._done):,} of {_files(len(self._sizes))}, {shown_size(done)} of "
                f"{shown_size(total)}, {speed / 1e6:,.0f} MB/s{images}, {end.format(seconds=seconds, left=left)}",
                file=sys.stderr,
                flush=True,
            )
