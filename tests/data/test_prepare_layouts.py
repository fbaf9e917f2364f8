"""Less common layouts of ImageNet-1K give the same data set as the original tars."""

import tarfile

import pytest

from tests.data import layouts
from tests.data.layouts import (
    SYNSETS,
    pack,
    solution,
    write_folder,
    write_parquet,
    write_train,
    write_val,
)
from tests.data.preparing import contents, in_process, prepared, refused, write_tar  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")


def write_split_folders(root):
    """Writes the archives of the authors' page into one folder, with other files that belong to no split."""
    source = layouts.kaggle_tars(root)
    (source / "LOC_val_solution.csv").unlink()
    (source / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(write_val()[1]))
    write_tar(source / "ILSVRC2012_img_test_v10102019.tar", {"test/ILSVRC2012_test_00000001.JPEG": b"x"})
    write_tar(source / "ILSVRC2012_img_train_t3.tar", {"n02085620.tar": b"x"})
    write_tar(source / "ILSVRC2012_bbox_train_v2.tar", {"n01440764/x.xml": b"x"})
    (source / "competition.zip").write_bytes(b"PK\3\4")
    return source


def write_unpacked_once(root):
    """Writes the outer tars unpacked, but the tars of the synsets packed."""
    source = layouts.kaggle_tars(root)
    for split in ("train", "val"):
        with tarfile.open(source / f"ILSVRC2012_img_{split}.tar") as archive:
            archive.extractall(source / f"ILSVRC2012_img_{split}", filter="data")
        (source / f"ILSVRC2012_img_{split}.tar").unlink()
    return source


def write_one_tar(root):
    """Writes everything into one tar."""
    source = layouts.class_folders(root / "unpacked")
    with tarfile.open(root / "imagenet.tar", "w") as archive:
        archive.add(source, "imagenet")
    return root / "imagenet.tar"


def write_named_flat(root):
    """Writes both splits without class folders; the file names of train contain the synsets."""
    train, (val, synsets) = write_train(root), write_val()
    write_folder(root / "ILSVRC2012_train", {name.split("/")[1]: content for name, content in train.items()})
    write_folder(root / "ILSVRC2012_val", val)
    solution(root, synsets)
    return root


def write_generic_shards(root):
    """Writes shards with meaningless keys; the .json files contain the file names."""
    source = layouts.webdataset(root)
    for path in list(source.iterdir()):
        with tarfile.open(path) as archive:
            files = {member.name: archive.extractfile(member).read() for member in archive}
        keys = {key: f"{place:06d}" for place, key in enumerate({name.partition(".")[0]: 0 for name in files})}
        files = {f"{keys[n.partition('.')[0]]}.{n.partition('.')[2]}": content for n, content in files.items()}
        path.unlink()
        split = "train" if "train" in path.name else "val"
        (source / split).mkdir(exist_ok=True)
        (source / split / f"{path.stem[-4:]}.tgz").write_bytes(pack(files, "w:gz"))
    return source


def write_lemmas(root):
    """Writes Parquet files with class names instead of numbers, whose file names have no synsets."""
    train, (val, synsets) = write_train(root), write_val()
    named = dict(zip(SYNSETS, ("tench", "goldfish, Carassius auratus", "sea snake"), strict=True))
    rows = [(name.split("/")[1].replace(".JPEG", ".jpg"), content, named[name[:9]]) for name, content in train.items()]
    write_parquet(root / "train.parquet", rows)
    rows = [(name, content, named[synset]) for synset, (name, content) in zip(synsets, val.items(), strict=True)]
    write_parquet(root / "validation.parquet", rows)
    return root


@pytest.mark.parametrize(
    "layout",
    [
        write_split_folders, write_unpacked_once, write_one_tar, write_named_flat, write_generic_shards, write_lemmas
    ],
)  # fmt: skip
def test_less_usual_layouts_are_the_same_data_set_too(layout, expected, tmp_path):
    card, _ = prepared(tmp_path / "out", "imagenet1k", "--source", layout(tmp_path / "set"))
    assert card["fingerprint"] == expected["fingerprint"]
    assert card["splits"] == expected["splits"]


@pytest.mark.parametrize(
    "words", [("tench", "goldfish", "sea snake"), ("Tench", "Goldfish, Carassius auratus", "sea_snake")]
)
def test_class_folders_may_be_named_by_words_that_one_class_has(words, expected, tmp_path):
    named = dict(zip(SYNSETS, words, strict=True))
    train, (val, synsets) = write_train(tmp_path), write_val()
    write_folder(
        tmp_path / "set" / "train", {name.replace(name[:9], named[name[:9]], 1): c for name, c in train.items()}
    )
    files = {f"{named[synset]}/{name}": content for synset, (name, content) in zip(synsets, val.items(), strict=True)}
    write_folder(tmp_path / "set" / "val", files)
    card, _ = prepared(tmp_path / "out", "imagenet1k", "--source", tmp_path / "set")
    assert card["fingerprint"] == expected["fingerprint"]
