"""Fuzzes PNGs of one channel through `decode_numbers`, and compares them with the numbers that Pillow decodes."""

from __future__ import annotations

import io
import itertools
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from focalnet_jax.data.png import decode_numbers, stored_palette
from fuzz.mutations import Rng, mutate_bytes, pick
from fuzz.runner import Family, WrongAnswerError
from tests.data.masks import GREY, PALETTE, chunk, raw_png


def prepare(_: Path) -> None:
    """Compiles what the cases call."""
    decode_numbers(raw_png(np.zeros((2, 2), int)))


def case(_: None, rng: Rng, folder: Path) -> None:
    """Decodes a PNG with any differences from predictions, damaged or not."""
    height, width = (int(size) for size in rng.integers(1, pick(rng, (3, 40)), 2))
    kind = pick(rng, (GREY, PALETTE))
    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, kind, 0, 0, 0])
    lines = rng.integers(0, pick(rng, (2, 256)), (height, 1 + width)).astype(np.uint8)
    lines[:, 0] = rng.integers(0, 5, height)
    packed = zlib.compress(lines.tobytes(), int(rng.integers(10)))
    cuts = [0, *sorted(int(place) for place in rng.integers(0, len(packed) + 1, int(rng.integers(4)))), len(packed)]
    parts = [(b"IDAT", packed[begin:end]) for begin, end in itertools.pairwise(cuts)]
    palette = rng.bytes(3 * 256)
    before = [(b"PLTE", palette)] if kind == PALETTE else []
    damage = pick(rng, ("none", "bytes", "data", "chunk"))
    if damage == "data":  # with a valid checksum
        place = int(rng.integers(len(parts)))
        parts[place] = b"IDAT", mutate_bytes(parts[place][1], rng, 1)
    if damage == "chunk":
        header = mutate_bytes(header, rng, 1)
    chunks = [(b"IHDR", header), *before, *parts, (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)
    if damage == "bytes":
        content = mutate_bytes(content, rng)
    (folder / "numbers.png").write_bytes(content)
    found = decode_numbers(content)
    if found is None:
        if damage == "none":
            raise WrongAnswerError("an undamaged PNG is left to Pillow")
        return
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image)
    if found.dtype != np.uint8 or not np.array_equal(found, expected):
        raise WrongAnswerError(f"{found}; expected {expected}")
    if damage == "none" and kind == PALETTE and stored_palette(content).tobytes() != palette:
        raise WrongAnswerError("another palette")


FAMILY = Family("numbers", 3000, prepare, case)
