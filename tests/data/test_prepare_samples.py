"""WebDataset shards and Parquet files give the same data set as class folders, with the right labels."""

import io
import json
import os
import shutil
import tarfile

import pytest

from focalnet_jax.data.prepare.__main__ import main
from focalnet_jax.data.tfds_source import TfdsSource
from tests.data.layouts import pack, table, write_folder, write_parquet
from tests.data.pictures import picture
from tests.data.preparing import contents, in_process, killed, prepare, prepared, refused, write_tar  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")


PICTURES = {
    f"{name}/{number}.jpg": picture(number * 3 + place) for place, name in enumerate("abc") for number in range(4)
}


def write_all(root):
    """Writes the same images as folders, shards and Parquet files; returns kinds and sources."""
    splits = {"train": list(PICTURES)[:9], "val": list(PICTURES)[9:]}
    splits["val"] += splits["train"][:3]
    for split, names in splits.items():
        write_folder(root / "folders" / split, {name: PICTURES[name] for name in names})
        for number in range(2):
            shard, rows = {}, []
            for name in names[number::2]:
                key = name.replace("/", "_").removesuffix(".jpg")
                shard |= {f"{key}.jpg": PICTURES[name], f"{key}.json": json.dumps({"filename": name}).encode()}
                shard[f"{key}.cls"] = name[0].encode()
                rows.append((name, PICTURES[name], name[0]))
            write_tar(root / "shards" / f"set-{split}-{number:06d}.tar", shard)
            (root / "packed").mkdir(exist_ok=True)
            (root / "packed" / f"{split}-{number}.tar.gz").write_bytes(pack(shard, "w:gz"))
            write_tar(root / "by_folder" / split / f"{number:05d}.tar", shard)
            write_parquet(root / "texts" / f"{split}-{number}.parquet", rows)
            labelled = [(name, content, "abc".index(label)) for name, content, label in rows]
            write_parquet(root / "typed" / "default" / split / f"{number:04d}.parquet", labelled, list("abc"))
    return [
        ("webdataset", root / "shards"), ("webdataset", root / "packed"), ("webdataset", root / "by_folder"),
        ("parquet", root / "texts"), ("parquet", root / "typed"),
    ]  # fmt: skip


def test_shards_and_parquet_are_the_same_data_set_as_folders(tmp_path):
    sources = write_all(tmp_path)
    expected, found = prepared(tmp_path / "out", "imagefolder", "--source", tmp_path / "folders")
    assert found == {"train": {"a": 4, "b": 4, "c": 1}, "val": {"a": 3, "c": 3}}
    for number, (kind, source) in enumerate(sources):
        card, _ = prepared(tmp_path / f"out{number}", kind, "--source", source)
        assert card["fingerprint"] == expected["fingerprint"], source
        assert card["classes"] == expected["classes"]


def write_shard(path, samples):
    """Writes a shard of samples, each with labels by suffix; returns its path."""
    files = {}
    for number, said in enumerate(samples):
        files[f"{number:04d}.jpg"] = picture(number)
        files |= {f"{number:04d}{suffix}": content.encode() for suffix, content in said.items()}
    return write_tar(path, files)


@pytest.mark.parametrize(
    ("samples", "expected", "classes"),
    [
        ([{".cls": "10"}, {".cls": "9\n"}, {".cls": "2"}], {"10": 1, "9": 1, "2": 1}, [str(n) for n in range(11)]),
        ([{".cls": "dog"}, {".cls": " cat \n"}], {"cat": 1, "dog": 1}, ["cat", "dog"]),
        ([{".json": '{"label": 1}'}, {".json": '{"label": 0}'}], {"0": 1, "1": 1}, ["0", "1"]),
        ([{".json": '{"label": 1, "class_name": "cat"}'}, {".json": '{"label": 0, "class_name": "dog"}'}],
         {"cat": 1, "dog": 1}, ["cat", "dog"]),
        ([{".json": f'{{"label": {n % 5}}}', ".txt": f"picture {n}"} for n in range(10)],
         {str(n): 2 for n in range(5)}, [str(n) for n in range(5)]),
        ([{".json": '{"cls": "cat"}'}, {".json": '{"cls": "dog"}'}], {"cat": 1, "dog": 1}, ["cat", "dog"]),
        ([{".txt": "cat"}, {".txt": "cat"}, {".txt": "dog"}, {".txt": "cat"}, {".txt": "dog"}],
         {"cat": 3, "dog": 2}, ["cat", "dog"]),
        ([{".cls": "0", ".txt": "a cat on a mat"}, {".cls": "1", ".json": '{"width": 3}'}],
         {"0": 1, "1": 1}, ["0", "1"]),
    ],
)  # fmt: skip
def test_a_label_is_what_the_files_beside_an_image_say(samples, expected, classes, tmp_path):
    source = write_shard(tmp_path / "train-0.tar", samples)
    card, found = prepared(tmp_path / "out", "webdataset", "--source", source)
    assert found == {"train": expected}
    assert list(card["classes"]) == classes


def test_numbers_get_the_names_of_a_list_and_its_order(tmp_path):
    (tmp_path / "names.txt").write_text("zebra\napple\nmango\n")
    samples = [{".cls": "0"}, {".cls": "2"}, {".cls": "apple"}, {".cls": "-1"}, {".cls": "plum"}]
    source = write_shard(tmp_path / "train-0.tar", samples)
    arguments = ["--source", source, "--classes", tmp_path / "names.txt"]
    card, found = prepared(tmp_path / "out", "webdataset", *arguments)
    assert list(card["classes"]) == ["zebra", "apple", "mango"]
    assert found == {"train": {"zebra": 1, "apple": 1, "mango": 1}}
    assert card["rejected"] == 2
    data = TfdsSource(str(tmp_path / "out"), "train")
    named = {data.name(index).split(" ")[0]: data[index][1] for index in range(3)}
    assert named == {"zebra/0000.jpg": 0, "mango/0001.jpg": 2, "apple/0002.jpg": 1}
    write_parquet(tmp_path / "train.parquet", [(None, picture(n), label) for n, label in enumerate((2, 0, -1))])
    arguments = ["--source", tmp_path / "train.parquet", "--classes", tmp_path / "names.txt"]
    card, found = prepared(tmp_path / "rows", "parquet", *arguments)
    assert found == {"train": {"zebra": 1, "mango": 1}}
    assert card["rejected"] == 1


def test_a_list_that_is_shorter_than_the_labels_is_refused(tmp_path):
    (tmp_path / "names.txt").write_text("zebra\napple\n")
    source = write_shard(tmp_path / "set" / "train-0.tar", [{".cls": str(number)} for number in (0, 1, 2)])
    given = ["--classes", tmp_path / "names.txt", "--out", tmp_path / "out"]
    told = (
        "the labels of 1 images of train, such as 2, are outside the 2 classes: "
        "add the missing classes to the list of --classes"
    )
    refused(told, "webdataset", "--source", source, *given)
    write_parquet(tmp_path / "train.parquet", [(None, picture(n), label) for n, label in enumerate((2, 0, 1))])
    refused(told, "parquet", "--source", tmp_path / "train.parquet", *given)
    (source.parent / "_info.json").write_text('{"classes": ["zebra", "apple"]}')
    told = "the labels of 1 images of train, such as 2, are outside the 2 classes: give --classes FILE"
    refused(told, "webdataset", "--source", source.parent, "--out", tmp_path / "out")


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_numbers_have_the_order_of_the_card_and_other_names_are_refused(kind, tmp_path, capsys):
    source = tmp_path / "set"
    if kind == "webdataset":
        write_shard(source / "train-0.tar", [{".cls": str(number)} for number in (0, 1, 1, 2, 2, 2)])
    else:
        rows = [(None, picture(n), label) for n, label in enumerate((0, 1, 1, 2, 2, 2))]
        write_parquet(source / "train.parquet", rows)
    (source / "_info.json").write_text('{"classes": ["zebra", "apple", "mango"]}')
    listed = tmp_path / "names.txt"
    listed.write_text("apple\nmango\nzebra\n")
    card, found = prepared(tmp_path / "out", kind, "--source", source, "--classes", listed)
    assert found == {"train": {"zebra": 1, "apple": 2, "mango": 3}}
    assert list(card["classes"]) == ["apple", "mango", "zebra"]
    assert "_info.json lists the class names in another order than --classes" in capsys.readouterr().out
    listed.write_text("Zebra\nApfel\nMango\n")
    told = "the class names in _info.json of the data set are not those of --classes FILE"
    refused(told, kind, "--source", source, "--classes", listed, "--out", tmp_path / "other")
    listed.write_text("zebra\napple\nmango\nplum\n")
    _, found = prepared(tmp_path / "more", kind, "--source", source, "--classes", listed)
    assert found == {"train": {"zebra": 1, "apple": 2, "mango": 3}}
    assert "another order" not in capsys.readouterr().out


def test_numbers_that_begin_with_1_are_refused_where_a_list_says_so(tmp_path):
    (tmp_path / "names.txt").write_text("zebra\napple\nmango\n")
    source = write_shard(tmp_path / "train-0.tar", [{".cls": str(number)} for number in (1, 2, 3)])
    arguments = ["--source", source, "--out", tmp_path / "out"]
    refused("they seem to start at 1", "webdataset", *arguments, "--classes", tmp_path / "names.txt")
    source = write_shard(tmp_path / "imagenet1k-train-0.tar", [{".cls": str(number)} for number in (1, 500, 1000)])
    refused("they seem to start at 1", "webdataset", *arguments[:1], source, *arguments[2:])


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        ([{".cls": "1"}, {".cls": "cat"}], "some labels are numbers, such as 1, others are names, such as cat"),
        ([{".json": '{"width": 3}'}, {".json": "[1]"}], "no label"),
        ([{".json": '{"label": 1', ".cls": ""}], "no label"),
        ([{".txt": f"a picture of {n} cats"} for n in range(6)], "captions and not classes"),
        ([{".cls": "1", ".json": '{"label": 2}'}], "contradictory labels"),
        ([{".cls": "20260101"}], "is too large for a class index"),
        ([{".cls": "long " * 90}], "no image of a known class"),
        ([{}, {}], "no .cls, .json or .txt for its images"),
    ],
)
def test_labels_that_cannot_be_classes_are_refused(samples, told, tmp_path):
    source = write_shard(tmp_path / "train-0.tar", samples)
    refused(told, "webdataset", "--source", source, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_of_a_sample_with_several_files_the_image_is_taken_and_the_rest_counted(tmp_path):
    files = {
        "x.seg.png": picture(1, "PNG"), "x.jpg": picture(2), "x.cls": b"0", "x.npy": b"z", "y.png": picture(3, "PNG"),
        "y.cls": b"1", "alone.cls": b"1", ".hidden.jpg": b"x", "readme": b"x", "z.image.jpg": picture(4), "z.cls": b"0",
        "w.depth.png": picture(5, "PNG"), "w.rgb.jpg": picture(6), "w.cls": b"1",
    }  # fmt: skip
    source = write_tar(tmp_path / "train-0.tar", files)
    card, found = prepared(tmp_path / "out", "webdataset", "--source", source)
    assert found == {"train": {"0": 2, "1": 2}}
    beside = {".seg.png beside the image": 1, ".depth.png beside the image": 1}
    assert card["left_out"] == beside | {".cls": 1, ".npy": 1, "hidden": 1, "no suffix": 1}
    names = {"0/x.jpg", "1/y.png", "0/z.jpg", "1/w.jpg"}
    assert set(contents(tmp_path / "out" / "images" / "1.0.0", "train")[0]) == names


def test_shards_named_for_imagenet_have_its_classes_and_names_and_numbers_must_agree(tmp_path):
    files = {}
    for key, label in (("n01440764_1", 0), ("n01484850_7", 2), ("n01443537_3", 2)):
        files |= {f"{key}.jpg": picture(label), f"{key}.cls": str(label).encode()}
    source = write_tar(tmp_path / "imagenet1k-train-0000.tar", files).parent
    card, found = prepared(tmp_path / "out", "webdataset", "--source", source)
    assert found == {"train": {"n01440764": 1, "n01484850": 1}}
    assert (len(card["classes"]), card["rejected"]) == (1000, 1)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train-0.tar", "val-0.tar"], {"train": 1, "val": 1}),
        (["set1k_training_0000.tar", "set1k_validation_0000.tar"], {"train": 1, "val": 1}),
        (["train/0.tar", "valid/0.tar", "test/0.tar"], {"train": 1, "val": 1, "test": 1}),
        (["0.tar", "1.tar"], {"train": 2}),
        (["train-0.tar", "0.tar"], "has no split in its name"),
        (["train-val-0.tar"], "has train and val in its name"),
    ],
)
def test_the_split_is_said_by_files_or_folders(names, expected, tmp_path):
    for number, name in enumerate(names):
        write_shard(tmp_path / "set" / name, [{".cls": f"class{number}"}, {".cls": "class0"}])
    arguments = ["webdataset", "--source", tmp_path / "set"]
    if isinstance(expected, str):
        refused(expected, *arguments, "--out", tmp_path / "out")
        return
    card, _ = prepared(tmp_path / "out", *arguments)
    assert {split: of["shards"] for split, of in card["splits"].items()} == dict.fromkeys(expected, 1)


def test_a_source_of_another_kind_is_refused(tmp_path):
    out = ["--out", tmp_path / "out"]
    write_folder(tmp_path / "folders", PICTURES)
    refused("found 12 .jpg", "webdataset", "--source", tmp_path / "folders", *out)
    refused("found 12 .jpg", "parquet", "--source", tmp_path / "folders", *out)
    inner = pack({"1.jpg": picture(1)})
    write_folder(tmp_path / "tars", {"cat.tar": inner, "dog.tar": inner})
    refused("use the kind imagefolder for one tar per class", "webdataset", "--source", tmp_path / "tars", *out)
    write_tar(tmp_path / "outer" / "train.tar", {"cat.tar": inner})
    refused("contains tars, such as cat.tar", "webdataset", "--source", tmp_path / "outer", *out)
    (tmp_path / "zip.tar").write_bytes(b"PK\3\4" + bytes(3000))
    refused("a zip archive: unzip it", "webdataset", "--source", tmp_path / "zip.tar", *out)
    (tmp_path / "x.parquet").write_bytes(b"PAR1" + bytes(3000))
    refused("damaged or not a Parquet file", "parquet", "--source", tmp_path / "x.parquet", *out)
    refused("expected Parquet files", "parquet", "--source", tmp_path / "zip.tar", *out)
    refused(
        "--classes applies to imagefolder, webdataset, parquet, imagenet1k, not to tfrecord",
        "tfrecord",
        "--source",
        tmp_path,
        "--classes",
        tmp_path,
        *out,
    )


def test_a_preparation_of_what_is_spooled_is_killed_and_ends_the_same(tmp_path):
    rows = [(f"{n}.jpg", picture(n), n % 2) for n in range(60)]
    for number in range(3):
        write_parquet(tmp_path / "set" / f"train-{number}.parquet", rows[number::3])
    few = ["--held-out", "0.2", "--shard-mb", "0.002", "--processes", "1"]
    arguments = ["parquet", "--source", tmp_path / "set", *few]
    folder = tmp_path / "out" / "images" / "1.0.0"
    for wanted in (".prepare/*.spool", ".prepare/train-00003.json"):
        killed(folder, wanted, *arguments, "--out", tmp_path / "out")
    done = prepare(*arguments, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert not (folder / ".prepare").exists()
    prepared(tmp_path / "fresh", *arguments)
    other = tmp_path / "fresh" / "images" / "1.0.0"
    assert (folder / "card.json").read_text() == (other / "card.json").read_text()
    for split in ("train", "val"):
        assert contents(folder, split) == contents(other, split)
    assert "already contains this data set" in prepare(*arguments, "--out", tmp_path / "out").stdout
    shutil.rmtree(tmp_path / "fresh")


def stopped(monkeypatch, *arguments):
    """Stops a preparation after it has indexed everything, but before it writes."""

    def run_all(function, arguments, processes, report):
        for given in arguments:
            function(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("focalnet_jax.data.prepare.preparation.run_all", run_all)
        with pytest.raises(KeyboardInterrupt):
            main([*map(str, arguments), "--processes", "1"])


def test_the_index_of_a_stopped_preparation_is_not_used_by_another_command(tmp_path, monkeypatch):
    """The commands differ in label columns or class lists, or in the first shard, which has the same size and time."""
    out = tmp_path / "out"
    labels = {"label": [1, 0, 0], "label_id": [0, 1, 1]}
    path = table(tmp_path / "train.parquet", image=[picture(n) for n in range(3)], **labels)
    arguments = ["parquet", "--source", path, "--label-column"]
    stopped(monkeypatch, *arguments, "label", "--out", out / "rows")
    assert prepared(out / "rows", *arguments, "label_id")[1] == {"train": {"0": 1, "1": 2}}

    source = write_shard(tmp_path / "shards" / "train-0000.tar", [{".cls": "0"}, {".cls": "1"}, {".cls": "1"}])
    (tmp_path / "wrong.txt").write_text("dog\ncat\n")
    (tmp_path / "right.txt").write_text("cat\ndog\n")
    arguments = ["webdataset", "--source", source.parent, "--classes"]
    stopped(monkeypatch, *arguments, tmp_path / "wrong.txt", "--out", out / "shards")
    _, found = prepared(out / "shards", *arguments, tmp_path / "right.txt")
    assert found == {"train": {"cat": 1, "dog": 2}}

    arguments = [*arguments, tmp_path / "right.txt"]
    stopped(monkeypatch, *arguments, "--out", out / "more")
    source.rename(source.with_name("train-0001.tar"))
    write_shard(source, [{".cls": "0"}, {".cls": "0"}, {".cls": "0"}])
    status = source.with_name("train-0001.tar").stat()
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert source.stat().st_size == status.st_size
    assert prepared(out / "more", *arguments)[1] == {"train": {"cat": 4, "dog": 2}}


def test_joined_shards_whose_keys_begin_anew_give_no_image_the_label_of_another(tmp_path):
    """The images in the two shards have different suffixes, so only the labels have equal names."""
    files = [(f"{key}.jpg", picture(key)) for key in range(3)] + [(f"{key}.cls", b"cat") for key in range(3)]
    files += [(f"{key}.png", picture(key + 9, "PNG")) for key in range(2)]
    files += [(f"{key}.cls", b"dog") for key in range(2)]
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    card, found = prepared(tmp_path / "out", "webdataset", "--source", tmp_path / "train.tar")
    assert found == {"train": {"cat": 1}}
    assert card["rejected"] == 2
