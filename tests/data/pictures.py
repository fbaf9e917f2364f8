"""A small data set of real pictures, with files such as real data sets have among them."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SYNSETS = ("n01440764", "n01443537", "n01484850")
READABLE = {"train": (13, 8, 8), "val": (3, 3, 3)}  # images a class that are kept, `write_planted` included
REJECTED, NORMALIZED = 5, 4


def encoded(image, format="JPEG"):
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def write_pictures(root: Path) -> None:
    """Crops of two photos and of one turned over, in SPLIT/SYNSET/SYNSET_n.JPEG."""
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    photos.append(photos[0].transpose(Image.Transpose.FLIP_TOP_BOTTOM))
    draw = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for photo, synset in zip(photos, SYNSETS, strict=True):
            for number in range(count):
                side = int(draw.integers(60, 120))
                left, top = (int(draw.integers(0, extent - side)) for extent in photo.size)
                path = root / split / synset / f"{synset}_{number}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                photo.crop((left, top, left + side, top + side)).save(path)


def write_planted(folder: Path, synset: str) -> None:
    """Four files to put right, one grey one to keep, five to reject."""
    image = Image.fromarray(load_sample_images().images[0]).resize((90, 70))
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    whole = encoded(image)
    files = {
        f"{synset}_100.JPEG": encoded(image.convert("CMYK")),
        f"{synset}_101.JPEG": encoded(image, "PNG"),  # wrongly named
        f"{synset}_102.PNG": encoded(deep, "PNG"),
        f"{synset}_103.png": encoded(image.convert("RGBA"), "PNG"),
        f"{synset}_104.JPEG": encoded(image.convert("L")),
        f"{synset}_105.JPEG": whole[: len(whole) // 2],
        f"{synset}_106.JPEG": b"",
        f"{synset}_107.JPEG": b"<html>404</html>",
        f"{synset}_108.png": encoded(Image.new("1", (14_000, 14_000)), "PNG"),
        f"{SYNSETS[-1]}_109.JPEG": whole,  # of another class, by its name
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)


def write_imagenet(root: Path, folder: Path) -> Path:
    """The tars and the list of labels of ImageNet-1K with the pictures below `root`; returns the list."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
        for synset in reversed(SYNSETS):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for path in sorted((root / "train" / synset).iterdir()):
                    archive.add(path, path.name)
            member = tarfile.TarInfo(f"{synset}.tar")
            member.size = inner.tell()
            inner.seek(0)
            outer.addfile(member, inner)
    labels = []
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as archive:
        for path in sorted((root / "val").glob("*/*")):
            name = f"ILSVRC2012_val_{len(labels) + 2:08d}.JPEG"  # the first image has another class
            labels.append(f"{name} {path.parent.name}")
            archive.add(path, name)
    (folder / "labels.txt").write_text("\n".join(labels) + "\n")
    return folder / "labels.txt"


def write_colours(root: Path) -> None:
    """Two classes of plain pictures, some of them in a folder below."""
    for split, count in (("train", 3), ("val", 2)):
        for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            (root / split / name / "more").mkdir(parents=True)
            for index in range(count):
                below = "more" if index else "."
                Image.new("RGB", (9, 9), colour).save(root / split / name / below / f"{index}.png")


def picture(number, format="JPEG"):
    return encoded(Image.fromarray(np.full((9, 8 + number % 5, 3), number * 4, np.uint8)), format)


PICTURE = encoded(Image.new("RGB", (8, 8), (9, 99, 200)))


def pictures(*names):
    """A picture by each of these names; other files where the suffix says so."""
    return {name: PICTURE if name.endswith((".jpg", ".JPEG")) else b"x" for name in names}
