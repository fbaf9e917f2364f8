"""Writes a small data set of real photos, with the unusual files that real data sets contain."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SYNSETS = ("n01440764", "n01443537", "n01484850")
READABLE = {"train": (13, 8, 8), "val": (3, 3, 3)}  # images per class that are kept, including those of `write_planted`
REJECTED, NORMALIZED = 5, 4


def encoded(image, format="JPEG"):
    """Returns the content of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def write_pictures(root: Path) -> None:
    """Writes crops of two photos, and of one of them upside down, as SPLIT/SYNSET/SYNSET_n.JPEG."""
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
    """Writes four files to correct, a grey file to keep, and five to reject."""
    image = Image.fromarray(load_sample_images().images[0]).resize((90, 70))
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    whole = encoded(image)
    files = {
        f"{synset}_100.JPEG": encoded(image.convert("CMYK")),
        f"{synset}_101.JPEG": encoded(image, "PNG"),  # a PNG named .JPEG
        f"{synset}_102.PNG": encoded(deep, "PNG"),
        f"{synset}_103.png": encoded(image.convert("RGBA"), "PNG"),
        f"{synset}_104.JPEG": encoded(image.convert("L")),
        f"{synset}_105.JPEG": whole[: len(whole) // 2],
        f"{synset}_106.JPEG": b"",
        f"{synset}_107.JPEG": b"<html>404</html>",
        f"{synset}_108.png": encoded(Image.new("1", (14_000, 14_000)), "PNG"),
        f"{SYNSETS[-1]}_109.JPEG": whole,  # the name contains a different class
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)


def write_imagenet(root: Path, folder: Path) -> Path:
    """Writes the tars and the label list of ImageNet-1K with the images below `root`; returns the list."""
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
            name = f"ILSVRC2012_val_{len(labels) + 2:08d}.JPEG"  # number 1 is left out, because its class is fixed
            labels.append(f"{name} {path.parent.name}")
            archive.add(path, name)
    (folder / "labels.txt").write_text("\n".join(labels) + "\n")
    return folder / "labels.txt"


def write_colours(root: Path) -> None:
    """Writes two classes of single-coloured images, some in a subfolder."""
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
    """Writes an image with each of these names, or a different file if the suffix is not that of an image."""
    return {name: PICTURE if name.endswith((".jpg", ".JPEG")) else b"x" for name in names}
