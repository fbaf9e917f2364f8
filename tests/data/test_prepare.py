"""Folders and archives become data sets that hold every good image once, in the order of the class list."""

import hashlib
import io
import json
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorboardX.record_writer import RecordWriter

from focalnet_jax.data.decode import decode
from focalnet_jax.data.prepare.__main__ import main
from focalnet_jax.data.prepare.containers import SPLITS, Container, Index, index_container, tar
from focalnet_jax.data.prepare.plan import make_plan
from focalnet_jax.data.prepare.shards import checked_image
from focalnet_jax.data.prepare.tfrecord import convert
from focalnet_jax.data.tfds_source import TfdsSource
from focalnet_jax.errors import UserError
from tests.commands import assert_one_line_mistake
from tests.data.pictures import (
    NORMALIZED,
    READABLE,
    REJECTED,
    SYNSETS,
    encoded,
    write_imagenet,
    write_pictures,
    write_planted,
)

SMALL = ["--processes", "2", "--shard-mb", "1"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    write_pictures(root)
    write_planted(root / "train" / SYNSETS[0], SYNSETS[0])
    return root


def prepare(*arguments):
    command = [sys.executable, "-m", "focalnet_jax.data.prepare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def refused(told, *arguments):
    with pytest.raises(UserError) as caught:
        main(list(map(str, arguments)))
    assert told in str(caught.value)


def share(name):
    """Where in [0, 1) the image of this class and name lies when some are held out, as its documentation says."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little") / 2**32


@pytest.fixture(scope="module")
def from_folders(pictures, tmp_path_factory):
    """The data set made of the folders."""
    out = tmp_path_factory.mktemp("out")
    done = prepare("imagefolder", "--source", pictures, "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    return out / "images" / "1.0.0"


def contents(folder, split):
    """The digest of every image by file name, and the classes counted."""
    source = TfdsSource(str(folder), split)
    examples = [source._examples[index] for index in range(len(source))]
    digests = {example["file_name"].decode(): hashlib.sha256(example["image"]).hexdigest() for example in examples}
    assert len(digests) == len(source)  # no name twice
    return digests, Counter(source.class_names[label] for _, label in (source[index] for index in range(len(source))))


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
    assert "it is .png; now" in reasons["101"]
    assert "truncated" in reasons["105"]
    assert "pixels" in reasons["108"]
    assert "another than its folder" in reasons["109"]
    card = json.loads((from_folders / "card.json").read_text())
    assert (card["rejected"], card["splits"]["train"]["examples"]) == (REJECTED, sum(READABLE["train"]))


def test_normalized_images_are_rgb_of_eight_bits_and_look_the_same(pictures, from_folders):
    source = TfdsSource(str(from_folders), "train")
    kept = {source.name(index).split(" ")[0]: source[index][0] for index in range(len(source))}
    for number, suffix in (("100", ".JPEG"), ("101", ".png"), ("102", ".PNG"), ("103", ".png")):
        held = kept[f"{SYNSETS[0]}/{SYNSETS[0]}_{number}{suffix}"]
        assert Image.open(io.BytesIO(held)).mode == "RGB"
        original = next((pictures / "train" / SYNSETS[0]).glob(f"*_{number}.*"))
        # JPEG of quality 95 again: a few levels
        assert np.abs(decode(held).astype(int) - decode(original)).mean() < 2


def test_archives_hold_the_same_as_folders_in_the_order_of_the_class_list(pictures, from_folders, tmp_path):
    labels = write_imagenet(pictures, tmp_path / "tars")
    done = prepare(
        "imagenet1k", "--source", tmp_path / "tars", "--val-labels", labels, "--out", tmp_path / "out", *SMALL
    )
    assert done.returncode == 0, done.stderr
    assert "997 without training images" in done.stdout
    folder = tmp_path / "out" / "imagenet2012" / "1.0.0"
    source = TfdsSource(str(tmp_path / "out"), "train")  # found below the folder named
    assert len(source.class_names) == 1000
    assert source.class_names[:3] == SYNSETS
    assert contents(folder, "train") == contents(from_folders, "train")
    assert sorted(contents(folder, "val")[0].values()) == sorted(contents(from_folders, "val")[0].values())
    assert tfds.builder("imagenet2012:1.0.0", data_dir=tmp_path / "out").info.splits["train"].num_examples == 29


def test_imagenet22k_has_its_21842_classes_and_holds_out_a_share_by_name(pictures, tmp_path):
    write_imagenet(pictures, tmp_path / "tars")
    whole = tmp_path / "tars" / "ILSVRC2012_img_train.tar"  # a tar of a tar a synset, as fall11_whole.tar
    done = prepare("imagenet22k", "--source", whole, "--held-out", "0.2", "--out", tmp_path / "out", *SMALL)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out" / "imagenet22k" / "1.0.0"
    train, val = contents(folder, "train")[0], contents(folder, "val")[0]
    assert len(train) + len(val) == 29
    assert not train.keys() & val.keys()
    assert set(val) == {name for name in train | val if share(name) < 0.2}
    source = TfdsSource(str(folder), "train[:50%]")
    assert (len(source.class_names), len(source)) == (21842, round(len(train) / 2))
    assert source.class_names[850] == "n04399382"


def test_a_preparation_killed_at_any_time_goes_on_and_ends_the_same(pictures, tmp_path):
    arguments = [
        "imagefolder", "--source", pictures, "--processes", "1", "--shard-mb", "0.01", "--out", tmp_path / "out"
    ]  # fmt: skip
    command = [sys.executable, "-m", "focalnet_jax.data.prepare", *map(str, arguments)]
    folder = tmp_path / "out" / "images" / "1.0.0"
    # while it indexes, while it writes, while it ends
    for wanted in (".prepare/*.npy", ".prepare/train-00003.json", ".prepare/val-*.json", "manifest.jsonl"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not list(folder.glob(wanted)):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert (folder / ".prepare").exists()
    done = prepare(*arguments)
    assert done.returncode == 0, done.stderr
    assert "going on" in done.stdout or "finished" in done.stdout
    assert not (folder / ".prepare").exists()
    fresh = prepare(*arguments[:-1], tmp_path / "fresh")
    assert fresh.returncode == 0, fresh.stderr
    other = tmp_path / "fresh" / "images" / "1.0.0"
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in other.iterdir())
    assert len(list(folder.iterdir())) > 10
    for name in ("card.json", "manifest.jsonl", "dataset_info.json"):
        assert (folder / name).read_text() == (other / name).read_text()
    for split in READABLE:
        assert contents(folder, split) == contents(other, split)
    assert "holds this data set already" in prepare(*arguments).stdout
    refused("shard_bytes was 10000 and is 2000000", *arguments, "--shard-mb", "2")


def test_other_data_is_not_called_finished_and_a_corrected_command_is_not_held_to_the_wrong_one(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "set")
    new = tmp_path / "set" / "train" / "fresh"
    arguments = ["imagefolder", "--source", tmp_path / "set", "--out", tmp_path / "out", *SMALL]
    new.mkdir()
    refused("fresh holds no images: fill it", *arguments)
    assert not (tmp_path / "out").exists()
    (tmp_path / "names.txt").write_text("other\n")
    refused("no image of a known class", *arguments, "--classes", tmp_path / "names.txt")
    assert not (tmp_path / "out").exists()
    picture = next((pictures / "train" / SYNSETS[1]).iterdir())
    shutil.copy(picture, new / "1.jpg")
    assert main(list(map(str, arguments))) == 0
    shutil.copy(picture, new / "2.jpg")
    refused("images was 44 and is 45", *arguments)
    (new / "2.jpg").unlink()
    (tmp_path / "out" / "images" / "1.0.0" / ".prepare").mkdir()  # what a kill at the very end leaves
    assert main(list(map(str, arguments))) == 0
    assert not (tmp_path / "out" / "images" / "1.0.0" / ".prepare").exists()
    shutil.copy(picture, new / "1.jpg")  # of the same size, now
    refused("sources was", *arguments)
    (new / "broken.jpg").symlink_to(tmp_path / "nowhere")
    refused("broken.jpg: No such file", *arguments[:3], "--out", tmp_path / "another")


def test_slices_of_a_split_hold_all_classes(tmp_path):
    def plan(count, shard_bytes):
        names = [f"{number}.jpg".encode() for number in range(count)]
        indices = [
            Index.of(names, [(0, 1000, 0)] * count, [str(label)] * count, [0] * count, ["x"] * count)
            for label in range(4)
        ]
        return make_plan(indices, list("0123"), held_out=0.0, shard_bytes=shard_bytes)

    shards = plan(30_000, 10_000_000)
    assert len(shards) == 12
    seen = [(piece.container, member) for shard in shards for piece in shard.pieces for member in piece.members]
    assert len(seen) == len(set(seen)) == 120_000
    for shard in shards:
        labels = np.repeat([piece.container for piece in shard.pieces], [len(piece.members) for piece in shard.pieces])
        for half in np.array_split(labels, 2):
            # 312 runs of 16 images of 4 classes: 78 +- 7.6 runs of each
            assert (np.bincount(half, minlength=4) > 16 * 40).all()
    # a small set is one shard: its images are mixed one by one
    (shard,) = plan(100, 10_000_000)
    labels = np.array([piece.container for piece in shard.pieces])
    assert len(labels) == 400
    for half in np.array_split(labels, 2):
        assert (np.bincount(half, minlength=4) > 30).all()  # 50 +- 4.3


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_a_damaged_or_cut_tar_is_refused_wherever_the_damage_lies(tmp_path):
    whole = write_tar(tmp_path / "n01440764.tar", {f"n01440764_{n}.JPEG": bytes(700) for n in range(10)})
    content = whole.read_bytes()

    def index(content, offset=0):
        path = tmp_path / "changed.tar"
        path.write_bytes(content)
        container = Container(str(path), offset, path.stat().st_size - offset, class_name="n01440764")
        return index_container(container)

    assert len(index(content)) == 10
    assert len(index(bytes(512) + content, 512)) == 10
    member = 512 + 1024  # a header and what it is of
    for damaged in (
        content[: 3 * member] + b"\xff" + content[3 * member + 1 :],
        content[: 4 * member],
        content[: 4 * member + 100],
        content[: 4 * member + 600],
        b"\xff" * 5000,
    ):
        with pytest.raises(UserError, match=r"damaged|cut off"):
            index(damaged)
        with pytest.raises(UserError, match=r"damaged|cut off"):
            index(bytes(512) + damaged, 512)


def test_a_tar_changed_at_the_same_size_between_a_kill_and_the_next_start_is_refused(tmp_path):
    """Its index would give the new bytes the old labels."""
    colours = {label: [encoded(Image.new("RGB", (8, 8), (n, 9, 9)), "BMP") for n in range(60)] for label in ("a", "b")}
    one = {f"{label}/{n}.bmp": content for label in "ab" for n, content in enumerate(colours[label])}
    path = write_tar(tmp_path / "set.tar", one)
    size = path.stat().st_size
    arguments = ["imagefolder", "--source", path, "--out", tmp_path / "out", "--processes", "1", "--shard-mb", "0.001"]
    process = subprocess.Popen([sys.executable, "-m", "focalnet_jax.data.prepare", *map(str, arguments)])
    work = tmp_path / "out" / "images" / "1.0.0" / ".prepare"
    deadline = time.monotonic() + 60
    while not list(work.glob("train-*.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.wait()
    other = write_tar(tmp_path / "other.tar", dict(reversed(one.items())))
    assert other.stat().st_size == size
    other.replace(path)
    refused("is of another preparation: sources was", *arguments)


def test_nothing_that_lies_in_a_class_is_left_out_without_a_word(tmp_path):
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
    assert {name for name, row in rows.items() if row["status"] == "rejected"} == {"cat/notes.txt", "README.md"}
    assert all("by its name" in rows[name]["reason"] for name in ("cat/notes.txt", "README.md"))
    assert {name for name, row in rows.items() if row["status"] == "normalized"} == {
        "cat/1.bmp", "cat/2.TIF", "cat/3", "cat/4.gif", "cat/5.png"
    }  # fmt: skip
    assert rows["cat/3"]["reason"] == "the name says None, it is .jpg; now cat/3.jpg"
    source = TfdsSource(str(folder), "train")
    assert len(source) == 5
    for index in range(5):
        held = Image.open(io.BytesIO(source[index][0]))
        assert (held.mode, source[index][0][24] > 8 and held.format == "PNG") == ("RGB", False)


def sixteen_bit_png(pixels):
    """RGB of 16 bits, which Pillow does not write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_two_preparations_of_the_same_are_the_same_to_the_byte(pictures, from_folders, tmp_path):
    done = prepare("imagefolder", "--source", pictures, "--out", tmp_path, "--processes", "1", "--shard-mb", "1")
    assert done.returncode == 0, done.stderr
    for path in from_folders.iterdir():
        assert (tmp_path / "images" / "1.0.0" / path.name).read_bytes() == path.read_bytes(), path.name


def test_an_error_is_one_line_whatever_processes_were_started(pictures, tmp_path):
    (tmp_path / "set" / "train" / "empty").mkdir(parents=True)
    done = prepare("imagefolder", "--source", tmp_path / "set", "--out", tmp_path / "out", *SMALL)
    assert_one_line_mistake(done, "holds no images")


def test_a_held_out_share_never_mixes_with_a_validation_split(tmp_path):
    picture = encoded(Image.new("RGB", (8, 8)))
    files = {f"imagenet21k_{split}/n01440764/n01440764_{n}.JPEG": picture for split in ("train", "val") for n in "12"}
    path = write_tar(tmp_path / "winter21.tar", files)
    arguments = ["imagenet22k", "--source", path, "--out", tmp_path / "out", "--processes", "1"]
    refused("have a split val already", *arguments, "--held-out", "0.5")
    assert main(list(map(str, arguments))) == 0
    card = json.loads((tmp_path / "out" / "imagenet22k" / "1.0.0" / "card.json").read_text())
    assert {split: of["examples"] for split, of in card["splits"].items()} == {"train": 2, "val": 2}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["cat/1.jpg", "dog/2.jpg"], [("train", "cat"), ("train", "dog")]),
        (["data/cat/1.jpg", "data/dog/2.jpg"], [("train", "cat"), ("train", "dog")]),
        (["data/cat/1.jpg", "data/dog/small/2.jpg"], [("train", "cat"), ("train", "dog")]),
        (["./cat/1.jpg", "./cat/2.jpg"], [("train", "cat"), ("train", "cat")]),
        (["set/train/cat/siamese/1.jpg", "set/validation/dog/2.jpg"], [("train", "cat"), ("val", "dog")]),
        (["1.jpg", "cat/1.jpg"], [("train", ""), ("train", "cat")]),
    ],
)
def test_the_path_in_a_tar_tells_split_and_class_as_in_a_folder(names, expected, tmp_path):
    path = write_tar(tmp_path / "set.tar", dict.fromkeys(names, b"x"))
    index = index_container(tar(path))
    assert [(SPLITS[m["split"]], m["class"].decode()) for m in index.members] == expected


def test_same_names_in_all_classes_are_held_out_independently():
    names = [f"{n}.png".encode() for n in range(200)]
    cat, dog = (
        Index.of(names, [(0, 1, 0)] * 200, [label] * 200, [0] * 200, [name.decode() for name in names]).members["hash"]
        for label in ("cat", "dog")
    )
    both = ((cat < 2**31) & (dog < 2**31)).sum()
    assert 30 < both < 70  # a quarter of 200, +- 6


def test_a_jpeg_only_one_library_can_read_is_written_so_that_both_can():
    whole = encoded(Image.new("RGB", (16, 16), (200, 100, 0)))
    odd = whole[:2] + b"\xff\xee\x00\x07Adobe" + whole[2:]  # an Adobe mark too short to hold what it must
    with pytest.raises(OSError, match=r".*"):
        Image.open(io.BytesIO(odd)).load()
    content, suffix, reason = checked_image(odd)
    assert (suffix, reason) == (".jpg", "damaged JPEG made RGB JPEG")
    assert np.abs(np.asarray(Image.open(io.BytesIO(content))).astype(int) - decode(odd)).max() < 8


@pytest.mark.parametrize(
    "member",
    [
        dict(name="../evil.jpg"),
        dict(name="/etc/evil.jpg"),
        dict(name="link.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        dict(name="hard.jpg", type=tarfile.LNKTYPE, linkname="other.jpg"),
    ],
    ids=lambda member: member["name"],
)
def test_a_tar_that_leads_out_of_itself_is_refused(tmp_path, member):
    path = tmp_path / "n01440764.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo()
        for key, value in member.items():
            setattr(info, key, value)
        archive.addfile(info)
    with pytest.raises(UserError, match="a link or a path out of it"):
        index_container(tar(path, class_name="n01440764"))
    refused("refused", "imagefolder", "--source", path, "--out", tmp_path / "out")


def test_sources_that_make_no_sense_are_one_line(pictures, tmp_path):
    out = ["--out", tmp_path / "out"]
    refused("no such file", "imagefolder", "--source", tmp_path / "nowhere", *out)
    (tmp_path / "empty").mkdir()
    refused("found none", "imagefolder", "--source", tmp_path / "empty", *out)
    refused("ILSVRC2012_img_train.tar", "imagenet1k", "--source", pictures, *out)
    (tmp_path / "page.tar").write_text("<html>")
    refused("damaged or no tar", "imagefolder", "--source", tmp_path / "page.tar", *out)
    (tmp_path / "packed.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    refused("gunzip it first", "imagenet22k", "--source", tmp_path / "packed.tar", *out)
    refused("--held-out 2.0", "imagefolder", "--source", pictures, "--held-out", "2", *out)
    refused("--name My", "imagefolder", "--source", pictures, "--name", "My Set", *out)
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    refused("each once; a", "imagefolder", "--source", pictures, "--classes", tmp_path / "twice.txt", *out)
    refused("found none", "tfrecord", "--source", pictures, *out)
    write_imagenet(pictures, tmp_path / "tars")
    refused("give --val-labels", "imagenet1k", "--source", tmp_path / "tars", *out)
    (tmp_path / "wrong.txt").write_text("1\n2\n")
    refused("n01440764", "imagenet1k", "--source", tmp_path / "tars", "--val-labels", tmp_path / "wrong.txt", *out)
    (tmp_path / "short.txt").write_text("n01440764\nn01443537\n")
    told = "holds 7 images that the label list does not have, such as ILSVRC2012_val_00000003.JPEG"
    refused(told, "imagenet1k", "--source", tmp_path / "tars", "--val-labels", tmp_path / "short.txt", *out)


def test_an_existing_tfrecord_data_set_is_converted_byte_for_byte(from_folders, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(from_folders, old)
    for path in old.glob("*.array_record-*"):
        path.unlink()
    description = json.loads((old / "dataset_info.json").read_text()) | {"fileFormat": "tfrecord"}
    (old / "dataset_info.json").write_text(json.dumps(description))
    source = tfds.builder_from_directory(from_folders)
    form = tfds.core.example_serializer.ExampleSerializer(source.info.features.get_serialized_info())
    for split, info in source.info.splits.items():
        assert info.num_shards == 1
        writer = RecordWriter(str(old / f"images-{split}.tfrecord-00000-of-00001"))
        for example in source.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()}):
            writer.write(form.serialize_example(source.info.features.encode_example(example)))
        writer.close()
    with pytest.raises(UserError, match="stored as tfrecord, which cannot be read by index"):
        TfdsSource(str(old), "train")
    folder = convert([old], tmp_path / "new", processes=1)
    for split in READABLE:
        assert contents(folder, split) == contents(from_folders, split)
    convert([old], tmp_path / "new", processes=1)  # finished already
    shard = old / "images-val.tfrecord-00000-of-00001"
    content = shard.read_bytes()
    for place in (3, 9, 500):  # the length of a record, its checksum, the record
        shard.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        with pytest.raises(UserError, match="a checksum does not fit"):
            convert([old], tmp_path / "other", processes=1)
    shard.write_bytes(content[:-10])
    with pytest.raises(UserError, match="cut off"):
        convert([old], tmp_path / "short", processes=1)
    with pytest.raises(UserError, match="of another preparation: sources was"):
        convert([old], tmp_path / "new", processes=1)
    shard.unlink()
    with pytest.raises(UserError, match=r"cannot read .*images-val.tfrecord"):
        convert([old], tmp_path / "none", processes=1)
    refused("--name is for imagefolder", "tfrecord", "--source", old, "--out", tmp_path, "--name", "x")
