"""Folders and tars of images give the same result, a right one or an error; files left out are counted."""

import pytest

from tests.data.layouts import pack, write_folder
from tests.data.pictures import PICTURE, pictures
from tests.data.preparing import in_process, prepared, refused, write_tar  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.mark.parametrize(
    ("names", "expected", "left_out"),
    [
        (["train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg"],
         {"train": {"cat": 1, "dog": 1}, "val": {"cat": 1}}, {}),
        (["imgs/train/cat/1.jpg", "imgs/train/dog/2.jpg", "imgs/valid/dog/3.jpg"],
         {"train": {"cat": 1, "dog": 1}, "val": {"dog": 1}}, {}),
        (["train/images/cat/1.jpg", "train/images/dog/2.jpg", "val/images/cat/3.jpg", "val/images/dog/4.jpg"],
         {"train": {"cat": 1, "dog": 1}, "val": {"cat": 1, "dog": 1}}, {}),
        (["data/set/cat/1.jpg", "data/set/dog/more/2.jpg"], {"train": {"cat": 1, "dog": 1}}, {}),
        (["cat/1.jpg", "cat/train/2.jpg", "dog/3.jpg"], {"train": {"cat": 2, "dog": 1}}, {}),
        (["10/1.jpg", "9/2.jpg", "cat/1.jpg"], {"train": {"10": 1, "9": 1, "cat": 1}}, {}),
        (["cat/1.jpg", "dog/2.jpg", "dog/.DS_Store", "cat/@eaDir/1.jpg", "dog/.trash/1.jpg", "cat/Thumbs.db"],
         {"train": {"cat": 1, "dog": 1}}, {"hidden": 4}),
        (["cat/1.jpg", "dog/2.jpg", "labels.csv", "LICENSE.md", "dog/2.xml", "cat/3.heic", "cat/more.tar"],
         {"train": {"cat": 1, "dog": 1}}, {".csv": 1, ".md": 1, ".xml": 1, ".heic": 1, ".tar": 1}),
        (["cat/1.jpg", "cat/1.json", "dog/2.jpg", "dog/2.txt"],
         {"train": {"cat": 1, "dog": 1}}, {".json": 1, ".txt": 1}),
    ],
)  # fmt: skip
def test_a_folder_and_a_tar_of_it_are_the_same_data_set(names, expected, left_out, tmp_path):
    write_folder(tmp_path / "set", pictures(*names))
    write_tar(tmp_path / "set.tar", pictures(*reversed(names)))
    (tmp_path / "set.tgz").write_bytes(pack(pictures(*names), "w:gz"))
    (tmp_path / "set.tar.xz").write_bytes(pack(pictures(*names), "w:xz"))
    cards = []
    for number, source in enumerate(("set", "set.tar", "set.tgz", "set.tar.xz")):
        card, found = prepared(tmp_path / f"out{number}", "imagefolder", "--source", tmp_path / source)
        assert found == expected, source
        assert card["left_out"] == left_out
        assert card["rejected"] == 0
        cards.append(card["fingerprint"])
    assert len(set(cards)) == 1


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["train/cat/1.jpg", "train/dog/1.jpg", "val/1.jpg", "val/2.jpg"], "2 images of val, such as"),
        (["train/1.jpg", "val/2.jpg"], "are not in class folders"),
        (["train/1.jpg", "train/2.jpg"], "are not in class folders"),
        (["cat/1.jpg", "train/2.jpg", "dog/3.jpg"], "train, a split, and cat, which is not a split"),
        (["train/cat/1.jpg", "cat/2.jpg"], "train, a split, and cat, which is not a split"),
        (["cat/train/1.jpg", "cat/val/2.jpg", "dog/train/3.jpg", "dog/val/4.jpg"], "not CLASS/SPLIT"),
        (["cat/test/1.jpg", "dog/test/2.jpg"], "not CLASS/SPLIT"),
        (["a/train/cat/1.jpg", "b/train/dog/2.jpg"], "not CLASS/SPLIT"),
        (["1.jpg", "2.jpg", "3.jpg"], "are not in class folders"),
    ],
)
def test_splits_where_classes_should_be_are_refused_in_a_folder_and_in_a_tar(names, told, tmp_path):
    write_folder(tmp_path / "set", pictures(*names))
    refused(told, "imagefolder", "--source", tmp_path / "set", "--out", tmp_path / "out")
    write_tar(tmp_path / "set.tar", pictures(*names))
    refused(told, "imagefolder", "--source", tmp_path / "set.tar", "--out", tmp_path / "out")
    (tmp_path / "set.tar.gz").write_bytes(pack(pictures(*names), "w:gz"))
    refused(told, "imagefolder", "--source", tmp_path / "set.tar.gz", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("top", ["", "set/", "other/"])
def test_a_folder_with_one_tar_is_the_data_set_in_the_tar(top, mode, tmp_path):
    names = ["train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg"]
    for number, (inside, expected) in enumerate(
        [
            (names, {"train": {"cat": 1, "dog": 1}, "val": {"cat": 1}}),
            (["cat/1.jpg", "dog/2.jpg"], {"train": {"cat": 1, "dog": 1}}),
        ]
    ):
        folder = tmp_path / str(number)
        suffix = ".tar.gz" if mode == "w:gz" else ".tar"
        write_folder(folder, {f"set{suffix}": pack(pictures(*(f"{top}{name}" for name in inside)), mode)})
        _, found = prepared(tmp_path / f"out{number}", "imagefolder", "--source", folder)
        assert found == expected


def test_images_beside_class_folders_are_rejected_by_name(tmp_path):
    names = ["cat/1.jpg", "dog/2.jpg", "3.jpg", "4.jpg", "notes"]
    write_folder(tmp_path / "set", pictures(*names))
    write_tar(tmp_path / "set.tar", pictures(*names))
    for source in ("set", "set.tar"):
        card, found = prepared(tmp_path / f"{source}-out", "imagefolder", "--source", tmp_path / source)
        assert found == {"train": {"cat": 1, "dog": 1}}
        assert card["rejected"] == 3
        manifest = (tmp_path / f"{source}-out" / "images" / "1.0.0" / "manifest.jsonl").read_text()
        assert manifest.count("not in a class folder") == 3


def classes(*names):
    return {f"{name}.tar": pack(pictures("1.jpg", "2.jpg")) for name in names}


def in_folders(*names):
    return pack(pictures(*(f"{name}/{number}.jpg" for name in names for number in "12")))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (classes("cat", "dog"), {"train": {"cat": 2, "dog": 2}}),
        (classes("cat", "bullet_train"), {"train": {"bullet_train": 2, "cat": 2}}),
        (classes("1", "2", "10"), {"train": {"1": 2, "2": 2, "10": 2}}),
        ({"train.tar": in_folders("cat", "dog"), "val.tar": in_folders("cat")},
         {"train": {"cat": 2, "dog": 2}, "val": {"cat": 2}}),
        ({"train.tar": in_folders("train/cat", "train/dog"), "val.tar": in_folders("val/cat", "val/dog")},
         {"train": {"cat": 2, "dog": 2}, "val": {"cat": 2, "dog": 2}}),
        ({"train.tar": pack(classes("cat", "dog")), "val.tar": pack(classes("cat"))},
         {"train": {"cat": 2, "dog": 2}, "val": {"cat": 2}}),
        ({"set-train-0.tar": in_folders("cat", "dog"), "set-train-1.tar": in_folders("cat", "emu")},
         {"train": {"cat": 4, "dog": 2, "emu": 2}}),
        ({"train/cat.tar": pack(pictures("1.jpg")), "val/cat.tar": pack(pictures("cat/2.jpg"))},
         {"train": {"cat": 1}, "val": {"cat": 1}}),
    ],
)  # fmt: skip
def test_tars_of_classes_and_of_splits_are_told_apart(files, expected, tmp_path):
    write_folder(tmp_path / "set", files)
    assert prepared(tmp_path / "out", "imagefolder", "--source", tmp_path / "set")[1] == expected
    if not any("-" in name for name in files):  # parts of a set are not packed again
        write_tar(tmp_path / "set.tar", files | {"README": b"x"})
        assert prepared(tmp_path / "again", "imagefolder", "--source", tmp_path / "set.tar")[1] == expected


def test_links_to_folders_are_followed_once(tmp_path):
    write_folder(tmp_path / "set", pictures("cat/1.jpg", "dog/2.jpg"))
    write_folder(tmp_path / "else", pictures("3.jpg", "4.jpg"))
    (tmp_path / "set" / "emu").symlink_to(tmp_path / "else")
    (tmp_path / "set" / "dog" / "more").symlink_to(tmp_path / "else")
    (tmp_path / "set" / "cat" / "all").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "cat" / "self").symlink_to(tmp_path / "set" / "cat")
    card, found = prepared(tmp_path / "out", "imagefolder", "--source", tmp_path / "set")
    assert found == {"train": {"cat": 1, "dog": 3, "emu": 2}}
    assert card["left_out"] == {"links to folders read already": 2}


def test_a_class_that_is_a_link_to_another_class_is_refused(tmp_path):
    write_folder(tmp_path / "set", pictures("train/cat/1.jpg", "train/dog/2.jpg"))
    (tmp_path / "set" / "train" / "emu").symlink_to(tmp_path / "set" / "train" / "cat")
    told = "train/cat, so its images have two classes"
    refused(told, "imagefolder", "--source", tmp_path / "set", "--out", tmp_path / "out")


def test_the_last_of_many_folders_and_tars_are_inspected_too(tmp_path):
    many = [f"a{number:02d}" for number in range(18)]
    names = [f"{name}/1.jpg" for name in many] + ["set/n01440764/1.jpg", "set/n01443537/2.jpg"]
    write_folder(tmp_path / "folders", pictures(*names))
    refused("set contains class folders", "imagefolder", "--source", tmp_path / "folders", "--out", tmp_path / "out")
    write_folder(tmp_path / "tars", classes(*many) | {"b.tar": in_folders("cat", "dog")})
    refused("several folders", "imagefolder", "--source", tmp_path / "tars", "--out", tmp_path / "out")


def test_what_lies_both_packed_and_unpacked_is_refused(tmp_path):
    write_folder(tmp_path / "set", pictures("cat/1.jpg", "dog/2.jpg") | classes("dog"))
    refused("dog and dog.tar, the same data", "imagefolder", "--source", tmp_path / "set", "--out", tmp_path / "out")
    write_folder(tmp_path / "splits", pictures("train/cat/1.jpg") | {"train.tar": in_folders("cat", "dog")})
    refused("the same data", "imagefolder", "--source", tmp_path / "splits", "--out", tmp_path / "out")
    write_folder(tmp_path / "both", {"cat.tar": classes("x")["x.tar"], "cat.tar.gz": pack(pictures("1.jpg"), "w:gz")})
    refused("the same data", "imagefolder", "--source", tmp_path / "both", "--out", tmp_path / "out")


def shard(*suffixes):
    return pack({f"{key}{suffix}": PICTURE if suffix == ".jpg" else b"0" for key in "ab" for suffix in suffixes})


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"train-0000.tar": shard(".jpg", ".cls"), "train-0001.tar": shard(".jpg", ".cls")}, "the kind webdataset"),
        ({"00000.tar": shard(".jpg", ".json", ".txt"), "00001.tar": shard(".jpg", ".json")}, "the kind webdataset"),
        ({"cat.tar": shard(".jpg", ".cls")}, "the kind webdataset"),
        ({"train.tar": shard(".cls", ".jpg"), "val.tar": shard(".jpg", ".cls")}, "the kind webdataset"),
        ({"train-0.tar": shard(".jpg"), "train-1.tar": shard(".jpg")}, "named after train; expected one split"),
        ({"train.tar": shard(".jpg"), "cat.tar": shard(".jpg")}, "a split, and cat.tar, which is not a split"),
        ({"cat.tar": pack(classes("a", "b"))}, "contains further tars"),
        ({"cat.tar": in_folders("train", "val"), "dog.tar": in_folders("train", "val")}, "not CLASS/SPLIT"),
        ({"a.tar": in_folders("pets/cat", "pets/dog"), "b.tar": in_folders("pets/cat", "pets/emu")}, "several folders"),
        ({"part_1.tar": in_folders("cat", "dog"), "part_2.tar": in_folders("cat", "emu")}, "several folders"),
        ({"cat.tar": shard(".jpg"), "more.zip": b"PK\3\4" + bytes(30)}, "a zip archive: unzip it"),
        ({"cat.tar": b"PK\3\4" + bytes(3000), "dog.tar": shard(".jpg")}, "a zip archive: unzip it"),
        ({"cat/1.jpg": PICTURE, "train-0.parquet": b"PAR1"}, "the kind parquet"),
    ],
)  # fmt: skip
def test_what_is_no_tar_of_a_class_never_becomes_one(files, told, tmp_path):
    write_folder(tmp_path / "set", files)
    refused(told, "imagefolder", "--source", tmp_path / "set", "--out", tmp_path / "out")


def test_an_archive_is_refused_where_it_is_of_another_kind_or_holds_two_kinds(tmp_path):
    out = ["--out", tmp_path / "out"]
    for number, (content, told) in enumerate(
        [
            (b"PK\3\4" + bytes(3000), "a zip archive: unzip it"),
            (b"PK\5\6" + bytes(3000), "an empty zip archive: give a folder"),
            (b"7z\xbc\xaf" + bytes(3000), "a 7z archive"),
            (b"\x28\xb5\x2f\xfd" + bytes(3000), "unpack it first with zstd -d"),
            (shard(".jpg", ".cls"), "the kind webdataset"),
            (shard(".jpg", ".json"), "the kind webdataset"),
            (pack(classes("cat") | pictures("1.jpg")), "contains both images, such as 1.jpg, and tars"),
            (pack({"cat.tar.gz": b"x", "dog.tar": b"x"}), "the compressed tar cat.tar.gz"),
            (pack({"train.tar": shard(".jpg", ".cls")}), "is a WebDataset shard"),
            (pack(pictures("1.txt")), "no image of a known class"),
        ]
    ):
        (tmp_path / f"{number}.tar").write_bytes(content)
        refused(told, "imagefolder", "--source", tmp_path / f"{number}.tar", *out)
    (tmp_path / "classes.tgz").write_bytes(pack(classes("cat", "dog"), "w:gz"))
    refused("decompress it first", "imagefolder", "--source", tmp_path / "classes.tgz", *out)


def test_a_compressed_tar_is_refused_where_it_is_damaged_unsafe_or_unpacks_without_end(tmp_path, monkeypatch):
    whole = pack(pictures(*(f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(20))), "w:gz")
    out = ["--out", tmp_path / "out"]
    path = tmp_path / "set.tar.gz"
    for content in (whole[: len(whole) // 2], whole[:-5], whole[:200] + b"\xff" * 9 + whole[209:], whole[:20]):
        path.write_bytes(content)
        refused("damaged", "imagefolder", "--source", path, *out)
    path.write_bytes(pack(pictures("cat/1.jpg", "../dog/1.jpg"), "w:gz"))
    refused("leads outside of the archive", "imagefolder", "--source", path, *out)
    path.write_bytes(whole)
    monkeypatch.setattr("focalnet_jax.data.prepare.containers.GROWTH_BYTES", 0)
    monkeypatch.setattr("focalnet_jax.data.prepare.containers.GROWTH", 1)
    refused("unpacks to more than", "imagefolder", "--source", path, *out)
    assert not (tmp_path / "out").exists()
