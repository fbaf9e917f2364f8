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
from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from focalnet_jax.data.decode import decode
from focalnet_jax.data.prepare.__main__ import main
from focalnet_jax.data.prepare.containers import Container, index_container
from focalnet_jax.data.prepare.plan import make_plan
from focalnet_jax.data.prepare.tfrecord import convert
from focalnet_jax.data.tfds_source import TfdsSource
from focalnet_jax.errors import UserError
from tests.data.pictures import (
    NORMALIZED,
    READABLE,
    REJECTED,
    SYNSETS,
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
    assert "it is .png" in reasons["101"]
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
    assert 1 <= len(val) <= 12  # a fifth of 29
    source = TfdsSource(str(folder), "train[:50%]")
    assert (len(source.class_names), len(source)) == (21842, round(len(train) / 2))
    assert source.class_names[850] == "n04399382"


def test_a_preparation_killed_at_any_time_goes_on_and_ends_the_same(pictures, tmp_path):
    arguments = ["imagefolder", "--source", pictures, "--out", tmp_path / "out", "--processes", "1", "--shard-mb", "1"]
    command = [sys.executable, "-m", "focalnet_jax.data.prepare", *map(str, arguments)]
    folder = tmp_path / "out" / "images" / "1.0.0"
    for wanted in ("index/*.npz", "reports/*.json"):  # kill it while it indexes, and while it writes
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not list((folder / ".prepare").glob(wanted)) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (folder / "card.json").exists() or not (folder / ".prepare").exists()
    done = prepare(*arguments)
    assert done.returncode == 0, done.stderr
    assert not (folder / ".prepare").exists()
    fresh = prepare(*arguments[:3], "--out", tmp_path / "fresh", *arguments[5:])
    assert fresh.returncode == 0, fresh.stderr
    other = tmp_path / "fresh" / "images" / "1.0.0"
    assert (folder / "card.json").read_text() == (other / "card.json").read_text()
    assert "holds this data set already" in prepare(*arguments).stdout
    refused("shard_bytes was 1000000 and is 2000000", *arguments[:-1], "2")


def test_slices_of_a_split_hold_all_classes():
    count = 3000
    names = np.array([f"{number}.jpg".encode() for number in range(count)])
    indices = [
        type(
            "Index",
            (),
            dict(
                names=names,
                sizes=np.full(count, 1000),
                classes=np.full(count, str(label).encode()),
                splits=np.zeros(count, np.int8),
                hashes=np.zeros(count, np.uint32),
            ),
        )
        for label in range(4)
    ]
    shards = make_plan(indices, list("0123"), held_out=0.0, shard_bytes=1_000_000)
    assert len(shards) == 12
    seen = [(piece.container, member) for shard in shards for piece in shard.pieces for member in piece.members]
    assert len(seen) == len(set(seen)) == 4 * count
    for shard in shards:
        held = Counter()
        for piece in shard.pieces:
            held[piece.container] += len(piece.members)
        # 63 runs of 16 images of 4 classes: 16 +- 3.5 runs of each
        assert min(held.get(label, 0) for label in range(4)) > 40


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
        index_container(Container(str(path), size=path.stat().st_size, class_name="n01440764"))
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
    refused("dataset_info.json", "tfrecord", "--source", pictures, *out)
    write_imagenet(pictures, tmp_path / "tars")
    refused("give --val-labels", "imagenet1k", "--source", tmp_path / "tars", *out)
    (tmp_path / "wrong.txt").write_text("1\n2\n")
    refused("n01440764", "imagenet1k", "--source", tmp_path / "tars", "--val-labels", tmp_path / "wrong.txt", *out)


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
        with (old / f"images-{split}.tfrecord-00000-of-00001").open("wb") as file:
            for example in source.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()}):
                record = form.serialize_example(source.info.features.encode_example(example))
                file.write(struct.pack("<Q", len(record)) + bytes(4) + record + bytes(4))
    with pytest.raises(UserError, match="stored as tfrecord, which cannot be read by index"):
        TfdsSource(str(old), "train")
    folder = convert([old], tmp_path / "new", processes=1)
    for split in READABLE:
        assert contents(folder, split) == contents(from_folders, split)
    cut = old / "images-val.tfrecord-00000-of-00001"
    cut.write_bytes(cut.read_bytes()[:-10])
    with pytest.raises(UserError, match="cut off"):
        convert([old], tmp_path / "other", processes=1)
