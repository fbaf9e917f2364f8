"""Writes masks in every coding."""

import struct
import zlib

import numpy as np
from PIL import Image

from tests.data.pictures import encoded

GREY, RGB, PALETTE, GREY_ALPHA = 0, 2, 3, 4  # colour types of PNG


def raw_png(values, bits=8, kind=GREY, palette=b""):
    """Returns a PNG with these samples `[H, W]` or `[H, W, C]` and bits per sample, which Pillow cannot write."""
    height, width = values.shape[:2]
    rows = b""
    for row in values.reshape(height, -1).tolist():
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[start : start + 8], 2) for start in range(0, len(text), 8))
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks if each != (b"PLTE", b""))


def chunk(name, content):
    """Returns a chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def grey_png(values):
    """Returns a grey PNG with 8 bits."""
    return encoded(Image.fromarray(np.asarray(values, np.uint8)), "PNG")


def write_pairs(root, split="train", count=6, masks="masks", suffix=".png"):
    """Writes images and masks with the labels 0, 1, 2 and 255 into `root`/images and `root`/masks."""
    for folder in ("images", masks):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        mask = rng.choice(np.array([0, 1, 2, 255], np.uint8), (12, 16))
        image = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        image.save(root / "images" / split / f"{number}.jpg")
        (root / masks / split / f"{number}{suffix}").write_bytes(grey_png(mask))
    return root
