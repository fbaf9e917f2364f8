"""Writes a small ImageNet-1K in each of its common layouts."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.pictures import encoded
from tests.data.preparing import write_tar

SYNSETS = ("n01440764", "n01443537", "n01751748")  # the last is the class of ImageNet's first validation image
NUMBERS = {"n01440764": 0, "n01443537": 1, "n01751748": 65}
IDS = {
    "n01440764": 449,
    "n01443537": 442,
    "n01751748": 490,
}  # numbers in the devkit, which are not in the order of the synsets


def write_train(root: Path, count: int = 4) -> dict[str, bytes]:
    """Returns the training images by SYNSET/FILE: plain images, a PNG named .JPEG, a CMYK image and a damaged file."""
    files = {}
    for label, synset in enumerate(SYNSETS):
        for number in range(count):
            shade = Image.fromarray(np.full((9, 12 + number, 3), 60 * label + 7 * number, np.uint8))
            files[f"{synset}/{synset}_{number * 37}.JPEG"] = encoded(shade)
    first = SYNSETS[0]
    files[f"{first}/{first}_900.JPEG"] = encoded(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG")
    files[f"{first}/{first}_901.JPEG"] = encoded(Image.new("CMYK", (8, 8)))
    files[f"{first}/{first}_902.JPEG"] = b"no image"
    return files


def write_val(count: int = 6) -> tuple[dict[str, bytes], list[str]]:
    """Returns the validation images by FILE, and the synset of each."""
    files = {
        f"ILSVRC2012_val_{number:08d}.JPEG": encoded(Image.new("RGB", (10, 10), (number * 20, 9, 9)))
        for number in range(1, count + 1)
    }
    return files, [SYNSETS[(2 * number + 2) % 3] for number in range(count)]


def write_folder(root: Path, files: dict[str, bytes]) -> None:
    """Writes files below a folder."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def pack(files: dict[str, bytes], mode: str = "w") -> bytes:
    """Returns a tar; `mode`, such as w:gz, selects the compression."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def solution(root: Path, synsets: list[str]) -> None:
    """Writes Kaggle's LOC_val_solution.csv."""
    lines = [f"ILSVRC2012_val_{n:08d},{synset} 1 2 3 4 {synset} 5 6 7 8 " for n, synset in enumerate(synsets, 1)]
    root.mkdir(parents=True, exist_ok=True)
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(lines) + "\n")


def meta_mat() -> bytes:
    """Returns the devkit's meta.mat with these three classes and a synset above them."""
    from scipy.io import savemat

    rows = np.zeros((4, 1), [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)])
    for row, (synset, number) in enumerate([*IDS.items(), ("n00001740", 1001)]):
        rows[row, 0] = (number, synset, "words")
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": rows}, do_compression=True)
    return buffer.getvalue()


def kaggle(root: Path) -> Path:
    """Writes Kaggle's unpacked folder, including its other files."""
    train, (val, synsets) = write_train(root), write_val()
    images = root / "ILSVRC" / "Data" / "CLS-LOC"
    write_folder(images / "train", train)
    write_folder(images / "val", val)
    write_folder(images / "test", {f"ILSVRC2012_test_{n:08d}.JPEG": next(iter(val.values())) for n in (1, 2)})
    write_folder(root / "ILSVRC" / "Annotations", {"CLS-LOC/val/ILSVRC2012_val_00000001.xml": b"<x/>"})
    write_folder(root / "ILSVRC" / "ImageSets", {"CLS-LOC/val.txt": b"ILSVRC2012_val_00000001 1\n"})
    solution(root, synsets)
    return root


def kaggle_tars(root: Path) -> Path:
    """Writes the two tars next to Kaggle's list."""
    train, (val, synsets) = write_train(root), write_val()
    root.mkdir(parents=True)
    inner = {}
    for synset in SYNSETS:
        names = {name.split("/")[1]: content for name, content in train.items() if name.startswith(synset)}
        inner[f"{synset}.tar"] = pack(dict(reversed(names.items())))
    write_tar(root / "ILSVRC2012_img_train.tar", inner)
    write_tar(root / "ILSVRC2012_img_val.tar", val)
    solution(root, synsets)
    return root


def devkit(root: Path) -> Path:
    """Writes the two tars next to the devkit's archive."""
    kaggle_tars(root)
    (root / "LOC_val_solution.csv").unlink()
    truth = "".join(f"{IDS[synset]}\n" for synset in write_val()[1])
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(
        pack(
            {
                "ILSVRC2012_devkit_t12/readme.txt": b"x",
                "ILSVRC2012_devkit_t12/data/meta.mat": meta_mat(),
                "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
            },
            "w:gz",
        )
    )
    return root


def class_folders(root: Path) -> Path:
    """Writes synset folders in both splits, like many scripts do."""
    val, synsets = write_val()
    write_folder(root / "train", write_train(root))
    write_folder(root / "val", {f"{s}/{name}": c for s, (name, c) in zip(synsets, val.items(), strict=True)})
    return root


def hub_tars(root: Path) -> Path:
    """Writes compressed tars whose file names contain the synset."""
    train, (val, synsets) = write_train(root), write_val()
    named = {}
    for name, content in train.items():
        synset, file = name.split("/")
        named[f"{file.removesuffix('.JPEG')}_{synset}.JPEG"] = content
    halves = list(named.items())[::2], list(named.items())[1::2]
    (root / "data").mkdir(parents=True)
    for number, half in enumerate(halves):
        (root / "data" / f"train_images_{number}.tar.gz").write_bytes(pack(dict(half), "w:gz"))
    files = {f"{n.removesuffix('.JPEG')}_{s}.JPEG": c for s, (n, c) in zip(synsets, val.items(), strict=True)}
    (root / "data" / "val_images.tar.gz").write_bytes(pack(files, "w:gz"))
    tests = {f"ILSVRC2012_test_{n:08d}.JPEG": next(iter(val.values())) for n in (1, 2)}
    (root / "data" / "test_images.tar.gz").write_bytes(pack(tests, "w:gz"))
    return root


def samples(files: dict[str, tuple[bytes, int]]) -> dict[str, bytes]:
    """Returns the files of a WebDataset shard with images and labels."""
    shard = {}
    for name, (content, label) in files.items():
        key = name.rpartition("/")[2].partition(".")[0]
        shard[f"{key}.cls"] = str(label).encode()
        shard[f"{key}.jpg"] = content
        shard[f"{key}.json"] = json.dumps({"filename": name, "label": label, "width": 9}).encode()
    return shard


def webdataset(root: Path) -> Path:
    """Writes WebDataset shards with shuffled images."""
    train, (val, synsets) = write_train(root), write_val()
    labelled = [(name, (content, NUMBERS[name[:9]])) for name, content in train.items()]
    for number in range(2):
        write_tar(root / f"imagenet1k-train-{number:04d}.tar", samples(dict(labelled[1 - number :: 2])))
    files = {f"{s}/{n}": (c, NUMBERS[s]) for s, (n, c) in zip(synsets, val.items(), strict=True)}
    write_tar(root / "imagenet1k-validation-00.tar", samples(files))
    return root


def write_parquet(path: Path, rows: list[tuple[str | None, bytes, object]], names: list[str] | None = None) -> Path:
    """Writes a Parquet file like the `datasets` library."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table(
        {
            "image": [{"bytes": content, "path": name} for name, content, _ in rows],
            "label": [label for *_, label in rows],
        }
    )
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    if names:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=4)
    return path


def hub_parquet(root: Path) -> Path:
    """Writes the Hub's Parquet files, whose class names are lemmas."""
    from focalnet_jax.data.class_lists import class_list

    names = [lemmas for _, lemmas in class_list(1000)]
    train, (val, synsets) = write_train(root), write_val()
    rows = []
    for name, content in train.items():
        synset, file = name.split("/")
        rows.append((f"{file.removesuffix('.JPEG')}_{synset}.JPEG", content, NUMBERS[synset]))
    for number in range(2):
        write_parquet(root / "data" / f"train-{number:05d}-of-00002.parquet", rows[number::2], names)
    files = zip(synsets, val.items(), strict=True)
    rows = [(f"{name.removesuffix('.JPEG')}_{s}.JPEG", content, NUMBERS[s]) for s, (name, content) in files]
    write_parquet(root / "data" / "validation-00000-of-00001.parquet", rows, names)
    write_parquet(
        root / "data" / "test-00000-of-00001.parquet",
        [(f"ILSVRC2012_test_{n:08d}.JPEG", rows[0][1], -1) for n in (1, 2)],
        names,
    )
    return root


def table(path, **columns):
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)
    return path
