"""Creates columns of Parquet files: images and labels of usual and unusual types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow

from fuzz.mutations import Rng, pick

CLASSES = ("cat", "dog", "cow")
TEXTS = (
    *("", " ", "0", "1", "2", "3", "-1", "--5", "+1", "1.0", "1e3", "0x1", "1_0", "٣", "①", "²", "𝟙", "9" * 5000),
    *("cat", "Cat ", "n01440764", "N01443537", "n1", "n01440764 tench", "a\nb", "a/b", "..", ".", "\0", "\u2028", "é"),
    *("\ud800", "\udcff", "x" * 5000, "nan", "None", "true", "label", "[0]", "{}", '"cat"', "cat,dog", "0 cat"),
)  # fmt: skip
ImageColumn = Callable[[list[bytes], list[str], Rng], Any]


def any_text(rng: Rng, usual: str) -> str:
    """Returns `usual`, or in three of ten cases a string that often breaks parsers."""
    return pick(rng, TEXTS) if rng.random() < 0.3 else usual


def _as_structs(
    bytes_of: Callable[[bytes], Any], kind: Any = None, path_of: Callable[[str, Rng], Any] | None = None
) -> ImageColumn:
    def make(pictures: list[bytes], paths: list[str], rng: Rng) -> Any:
        rows = [
            {"bytes": bytes_of(picture), "path": path_of(path, rng) if path_of else path}
            for picture, path in zip(pictures, paths, strict=True)
        ]
        return pyarrow.array(rows, pyarrow.struct({"bytes": kind or pyarrow.binary(), "path": pyarrow.string()}))

    return make


def _odd_path(path: str, rng: Rng) -> str | None:
    return pick(rng, (path, path, None, ".", "..", "", "/", "/dev/null", "a/../b.png", "x" * 300, "a\nb.png", "\0"))


IMAGE_COLUMNS: tuple[ImageColumn, ...] = (
    _as_structs(bytes),
    _as_structs(bytes, path_of=_odd_path),
    _as_structs(bytes, path_of=_odd_path),
    _as_structs(bytes, pyarrow.large_binary()),
    _as_structs(lambda content: content.decode("latin-1"), pyarrow.string()),
    _as_structs(list, pyarrow.list_(pyarrow.uint8())),
    _as_structs(lambda content: None),
    lambda pictures, paths, rng: pyarrow.array([pick(rng, (picture, None, b"", b"x")) for picture in pictures]),
    lambda pictures, paths, rng: pyarrow.array([list(picture) for picture in pictures], pyarrow.list_(pyarrow.uint8())),
    lambda pictures, paths, rng: pyarrow.array(pictures, pyarrow.large_binary()),
    lambda pictures, paths, rng: pyarrow.array(pictures).dictionary_encode(),
    lambda pictures, paths, rng: pyarrow.array(paths),
    lambda pictures, paths, rng: pyarrow.nulls(len(pictures)),
)
_FLOATS = (0.0, 1.0, 2.0, 1.5, -1.0, 1e300, float("nan"), float("inf"), None)
LABEL_COLUMNS: tuple[Callable[[list[int], Rng], Any], ...] = (
    lambda numbers, rng: pyarrow.array(numbers),
    lambda numbers, rng: pyarrow.array(numbers, pyarrow.int8()),
    lambda numbers, rng: pyarrow.array(
        [pick(rng, (number, number, 2**63, 2**64 - 1)) for number in numbers], pyarrow.uint64()
    ),
    lambda numbers, rng: pyarrow.array([pick(rng, (number, number, -1, -(2**63), 2**31, None)) for number in numbers]),
    lambda numbers, rng: pyarrow.array([pick(rng, _FLOATS) for _ in numbers], pyarrow.float64()),
    lambda numbers, rng: pyarrow.array([CLASSES[number] for number in numbers]).dictionary_encode(),
    lambda numbers, rng: pyarrow.array([pick(rng, (True, False, None)) for _ in numbers]),
    lambda numbers, rng: pyarrow.nulls(len(numbers)),
    lambda numbers, rng: pyarrow.array([any_text(rng, str(n)).encode(errors="replace").decode() for n in numbers]),
    lambda numbers, rng: pyarrow.array([[number] for number in numbers]),
    lambda numbers, rng: pyarrow.array([{"id": number} for number in numbers]),
    lambda numbers, rng: pyarrow.array(numbers, pyarrow.timestamp("s")),
)
