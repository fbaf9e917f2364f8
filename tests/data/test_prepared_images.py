"""Every image is stored unchanged, corrected or rejected; the manifest lists the last two."""

import hashlib
import io
import json
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from focalnet_jax.data.decode import decode
from focalnet_jax.data.prepare.__main__ import main
from focalnet_jax.data.prepare.shards import checked_image
from focalnet_jax.data.tfds_source import TfdsSource
from tests.data.pictures import NORMALIZED, READABLE, REJECTED, SYNSETS, encoded
from tests.data.preparing import contents, write_tar


def test_no_file_in_a_class_is_left_out_silently(tmp_path):
    picture = Image.new("RGB", (8, 8), (200, 100, 0))
    deep = io.BytesIO()
    rgb = np.full((6, 6, 3), 40_000, np.uint16)
    deep.write(sixteen_bit_png(rgb))
    files = {
        "cat/1.bmp": encoded(picture, "BMP"),
        "cat/2.TIF": encoded(picture, "TIFF"),
        "cat/3": encoded(picture),
        "cat/4.gif": encoded(picture, "GIF"),
        "cat/5.png": deep.getvalue(),
        "cat/notes.txt": b"x",
        "__MACOSX/cat/6.jpg": b"x",
        "cat/.hidden.jpg": b"x",
        "README.md": b"x",
    }
    path = write_tar(tmp_path / "set.tar", files)
    out = ["--out", tmp_path / "out", "--processes", "1"]
    assert main(list(map(str, ["imagefolder", "--source", path, *out]))) == 0
    folder = tmp_path / "out" / "images" / "1.0.0"
    rows = {row["file"]: row for row in map(json.loads, (folder / "manifest.jsonl").read_text().splitlines())}
    assert {name for name, row in rows.items() if row["status"] == "left out"} == {"cat/notes.txt", "README.md"}
    assert all("by its name" in rows[name]["reason"] for name in ("cat/notes.txt", "README.md"))
    card = json.loads((folder / "card.json").read_text())
    assert (card["files"], card["left_out"]) == (9, {"hidden": 2, ".txt": 1, ".md": 1})
    assert {name for name, row in rows.items() if row["status"] == "normalized"} == {
        "cat/1.bmp", "cat/2.TIF", "cat/3", "cat/4.gif", "cat/5.png"
    }  # fmt: skip
    assert rows["cat/3"]["reason"] == "the suffix was None, the format is .jpg; now cat/3.jpg"
    source = TfdsSource(str(folder), "train")
    assert len(source) == 5
    for index in range(5):
        held = Image.open(io.BytesIO(source[index][0]))
        assert (held.mode, source[index][0][24] > 8 and held.format == "PNG") == ("RGB", False)


def sixteen_bit_png(pixels):
    """Returns a 16-bit RGB PNG, which Pillow cannot write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_jpeg_only_one_library_can_read_is_written_so_that_both_can():
    whole = encoded(Image.new("RGB", (16, 16), (200, 100, 0)))
    odd = whole[:2] + b"\xff\xee\x00\x07Adobe" + whole[2:]  # an Adobe marker that is too short
    with pytest.raises(OSError, match=r".*"):
        Image.open(io.BytesIO(odd)).load()
    content, suffix, reason = checked_image(odd)
    assert (suffix, reason) == (".jpg", "damaged JPEG converted to RGB JPEG")
    assert np.abs(np.asarray(Image.open(io.BytesIO(content))).astype(int) - decode(odd)).max() < 8


def test_every_good_image_is_kept_once_with_its_bytes_and_the_rest_is_named(pictures, from_folders):
    for split, counts in READABLE.items():
        digests, found = contents(from_folders, split)
        assert found == dict(zip(SYNSETS, counts, strict=True))
        originals = {
            str(path.relative_to(pictures / split)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (pictures / split).glob("*/*")
        }
        same = {name for name, digest in digests.items() if originals.get(name) == digest}
        assert len(digests) - len(same) == (NORMALIZED if split == "train" else 0)
    rows = [json.loads(line) for line in (from_folders / "manifest.jsonl").read_text().splitlines()]
    assert Counter(row["status"] for row in rows) == {"rejected": REJECTED, "normalized": NORMALIZED}
    reasons = {row["file"].rpartition("_")[2].partition(".")[0]: row["reason"] for row in rows}
    assert "CMYK" in reasons["100"]
    assert "the format is .png; now" in reasons["101"]
    assert "truncated" in reasons["105"]
    assert "pixels" in reasons["108"]
    assert "contradicts its folder" in reasons["109"]
    card = json.loads((from_folders / "card.json").read_text())
    assert (card["rejected"], card["splits"]["train"]["examples"]) == (REJECTED, sum(READABLE["train"]))


def test_normalized_images_are_rgb_of_eight_bits_and_look_the_same(pictures, from_folders):
    source = TfdsSource(str(from_folders), "train")
    kept = {source.name(index).split(" ")[0]: source[index][0] for index in range(len(source))}
    for number, suffix in (("100", ".JPEG"), ("101", ".png"), ("102", ".PNG"), ("103", ".png")):
        held = kept[f"{SYNSETS[0]}/{SYNSETS[0]}_{number}{suffix}"]
        assert Image.open(io.BytesIO(held)).mode == "RGB"
        original = next((pictures / "train" / SYNSETS[0]).glob(f"*_{number}.*"))
        # encoded again as JPEG with quality 95: pixel values change slightly
        assert np.abs(decode(held).astype(int) - decode(original)).mean() < 2
