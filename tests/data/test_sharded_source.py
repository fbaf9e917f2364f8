"""Parquet files and WebDataset shards that are read directly give the batches of the same data prepared."""

import pickle
import shutil
import threading

import numpy as np
import pytest

from focalnet_jax.data import sharded_source
from focalnet_jax.data.loader import ReadOptions, eval_batches, train_batches
from focalnet_jax.data.sharded_source import ShardedSource
from focalnet_jax.data.sources import SourceOptions, open_source
from focalnet_jax.data.tfds_source import TfdsSource
from focalnet_jax.data.transforms import eval_transform, train_transform
from focalnet_jax.errors import UserError
from focalnet_jax.storage.address import CACHE
from focalnet_jax.tasks.classification.host import ClassificationHost
from tests.data.layouts import pack, table, write_parquet
from tests.data.pictures import SYNSETS, picture, write_pictures
from tests.data.preparing import in_process, prepared, write_tar  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")

HOST = ClassificationHost(train_transform(16, (0.3, 1.0), (3 / 4, 4 / 3), 0.5), eval_transform(16))
KINDS = ["parquet", "webdataset", "packed"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    sharded_source._indexed.cache_clear()
    monkeypatch.setenv("HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Photos in Parquet files, in shards and in compressed shards, as PATH/KIND."""
    root = tmp_path_factory.mktemp("packed")
    write_pictures(root / "photos")
    for split in ("train", "val"):
        files = {path.name: path for path in sorted((root / "photos" / split).rglob("*.JPEG"))}
        names = sorted(files, key=lambda name: name[::-1])  # shuffled
        for number in range(2):
            rows, shard = [], {}
            for name in names[number::2]:
                content = files[name].read_bytes()
                rows.append((f"{split}_{name}", content, SYNSETS.index(name[:9])))
                key = f"{split}_{name}".removesuffix(".JPEG")
                shard |= {f"{key}.jpg": content, f"{key}.cls": name[:9].encode()}
            write_parquet(root / "parquet" / "data" / f"{split}-{number:05d}-of-00002.parquet", rows, list(SYNSETS))
            write_tar(root / "webdataset" / f"pictures-{split}-{number:06d}.tar", shard)
            (root / "packed").mkdir(exist_ok=True)
            (root / "packed" / f"pictures-{split}-{number:06d}.tar.gz").write_bytes(pack(shard, "w:gz"))
    return root


def opened(kind, path, split, **options):
    return ShardedSource("parquet" if kind == "parquet" else "webdataset", str(path), split, **options)


def streams(train, val):
    """The first batches of training and all batches of an evaluation."""
    reading = ReadOptions(threads=2)
    steps = dict(batch_size=4, seed=3, start_step=2, end_step=9)
    return [
        *train_batches(train, HOST, **steps, reading=reading),
        *eval_batches(val, HOST, batch_size=4, reading=reading),
    ]


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_those_of_the_same_data_prepared(kind, packed, tmp_path):
    named = "parquet" if kind == "parquet" else "webdataset"
    prepared(tmp_path / "out", named, "--source", packed / kind, "--shard-mb", "0.01")
    ours = [opened(kind, packed / kind, split) for split in ("train", "val")]
    theirs = [TfdsSource(str(tmp_path / "out"), split) for split in ("train", "val")]
    assert [len(source) for source in ours] == [24, 9]
    assert ours[0].class_names == theirs[0].class_names == SYNSETS
    assert_same(streams(*ours), streams(*theirs))


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_has_every_example_once(kind, packed):
    val = opened(kind, packed / kind, "val")
    masks = [batch["mask"] for batch in eval_batches(val, HOST, batch_size=4, reading=ReadOptions(threads=0))]
    assert np.concatenate(masks).sum() == len(val) == 9
    contents = {val[index][0] for index in range(len(val))}
    assert contents == {path.read_bytes() for path in (packed / "photos" / "val").rglob("*.JPEG")}


def test_labels_and_names_belong_to_the_images(packed):
    for kind in KINDS:
        source = opened(kind, packed / kind, "train")
        assert source.labels.dtype == np.int32
        for index in range(len(source)):
            content, label = source[index]
            assert label == source.labels[index]
            name = SYNSETS[label]
            assert source.name(index).startswith(f"{name}/train_{name}_")
            file = source.name(index).partition(" ")[0].rpartition("train_")[2].partition(".")[0]
            assert content == (packed / "photos" / "train" / name / f"{file}.JPEG").read_bytes()
        assert f"{packed / kind}/" in source.name(0)
    assert ", row " in opened("parquet", packed / "parquet", "train").name(0)


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_images_are_those_that_data_prepare_holds_out(kind, packed, tmp_path):
    only = tmp_path / "only"
    only.mkdir()
    for path in (packed / kind).rglob("*train*"):
        shutil.copy(path, only)
    prepared(tmp_path / "out", "parquet" if kind == "parquet" else "webdataset", "--source", only, "--held-out", "0.3")
    train, val = (opened(kind, only, split, held_out=0.3) for split in ("train", "val"))
    theirs = [TfdsSource(str(tmp_path / "out"), split) for split in ("train", "val")]
    assert len(train) + len(val) == 24
    assert f"{len(val)} of 24 images are held out for evaluation" in train.description
    assert_same(streams(train, val), streams(*theirs))
    with pytest.raises(UserError, match=r"has no split 'val'; it contains train: hold out a fifth of the images"):
        opened(kind, only, "val")
    # With a split val, no image is held out.
    assert len(opened(kind, packed / kind, "train", held_out=0.3)) == 24


def test_splits_have_the_usual_names(packed):
    path = str(packed / "parquet")
    assert len(open_source("parquet", path, "validation")) == len(open_source("parquet", path, "val")) == 9
    with pytest.raises(UserError, match=r"has no split 'tset'; it contains train, val: set --config.data.train_split"):
        open_source("parquet", path, "tset")
    with pytest.raises(UserError, match=r"data.source=webdataset needs data.path"):
        open_source("webdataset", None, "train")


def test_a_pattern_and_a_single_file_are_paths(packed):
    pattern = f"{packed}/webdataset/pictures-train-{{000000..000007}}.tar"
    assert len(open_source("webdataset", pattern, "train")) == 24
    assert len(open_source("webdataset", f"{packed}/webdataset/pictures-train-000001.tar", "train")) == 12
    with pytest.raises(UserError, match=r"data.path=.*nothing-\*.tar: no file matches this pattern"):
        open_source("webdataset", f"{packed}/nothing-*.tar", "train")


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_indexed_once_and_again_when_they_change(kind, packed, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(packed / kind, copy)
    first = opened(kind, copy, "train")
    sharded_source._indexed.cache_clear()  # as another process
    with monkeypatch.context() as patched:
        patched.setattr(sharded_source, "save_index", lambda *_: pytest.fail("indexed again"))
        again = opened(kind, copy, "train")
    assert (again.fingerprint, len(again)) == (first.fingerprint, len(first))
    sharded_source._indexed.cache_clear()
    changed = next(path for path in sorted(copy.rglob("*")) if "train" in path.name)
    shutil.copy(next(path for path in sorted(copy.rglob("*")) if "val" in path.name), changed)
    other = next(path for path in sorted(copy.rglob("*")) if "val" in path.name)
    other.unlink()
    after = opened(kind, copy, "train")
    assert after.fingerprint != first.fingerprint
    assert len(after) < len(first)


def test_two_processes_index_once(packed, monkeypatch):
    indexed = []
    original = sharded_source.save_index
    monkeypatch.setattr(sharded_source, "save_index", lambda *given: (indexed.append(given), original(*given)))
    calls = [sharded_source._indexed.__wrapped__] * 3  # without the cache of a process
    given = ("parquet", str(packed / "parquet"), (None, None), CACHE)
    threads = [threading.Thread(target=call, args=given) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(indexed) == 4


def test_a_source_is_small_when_it_is_pickled(packed):
    source = opened("parquet", packed / "parquet", "train")
    content = pickle.dumps(source)
    assert len(content) < 5000
    assert pickle.loads(content)[3][0] == source[3][0]


def test_images_that_are_no_examples_are_counted_and_damaged_ones_are_replaced(tmp_path, capsys):
    rows = [(f"{n}.jpg", picture(n), n % 2) for n in range(8)]
    rows += [("8.jpg", b"no image", 0), ("9.jpg", picture(9), -1), ("10.jpg", b"", 1)]
    write_parquet(tmp_path / "set" / "train.parquet", rows)
    source = opened("parquet", tmp_path / "set", "train")
    assert len(source) == 9
    printed = capsys.readouterr()
    assert printed.out == ""  # eval.py writes its result there
    assert "left out 2 images: 1 (no label), 1 (its row has no image)" in printed.err
    reading = ReadOptions(threads=0)
    batches = list(train_batches(source, HOST, batch_size=9, seed=0, start_step=0, end_step=1, reading=reading))
    (replaced,) = batches[0]["unreadable"][batches[0]["unreadable"] >= 0]
    assert source.name(int(replaced)) == f"0/8.jpg ({tmp_path}/set/train.parquet, row 8)"
    with pytest.raises(UserError, match=r"cannot read image 0/8.jpg \(.*, row 8\) \(it is a text file"):
        list(eval_batches(source, HOST, batch_size=9, reading=reading))


def test_notes_name_what_a_run_can_do(tmp_path, capsys):
    write_parquet(tmp_path / "set" / "train.parquet", [(f"{n}.jpg", picture(n), n % 2) for n in range(4)])
    opened("parquet", tmp_path / "set", "train")
    (note,) = (line for line in capsys.readouterr().err.splitlines() if "labels are numbers" in line)
    assert note.endswith("0 to 1; python -m focalnet_jax.data.prepare with --classes FILE gives other names")


def test_columns_are_chosen_by_keys_of_the_config(tmp_path):
    columns = {"img": [picture(n) for n in range(4)], "fine_label": [0, 1, 2, 3], "coarse_label": [0, 0, 1, 1]}
    path = str(table(tmp_path / "train.parquet", **columns))
    with pytest.raises(UserError, match=r"give --config.data.label_column=NAME, one of img, fine_label, coarse_label"):
        open_source("parquet", path, "train")
    source = open_source("parquet", path, "train", SourceOptions(label_column="coarse_label"))
    assert np.bincount(source.labels).tolist() == [2, 2]
    with pytest.raises(UserError, match=r"no column coarse_lable: .* Did you mean 'coarse_label'"):
        open_source("parquet", path, "train", SourceOptions(label_column="coarse_lable"))


def test_a_cache_that_cannot_be_written_or_is_too_small_is_one_line(packed, cache, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
        with pytest.raises(UserError, match=r"images of .* MB .* must be copied to .*/cache/.*: use a larger disk"):
            opened("parquet", packed / "parquet", "train")
        assert len(opened("webdataset", packed / "webdataset", "train")) == 24  # read in place
    (cache.parent / "file").write_text("")
    monkeypatch.setenv("HOME", str(cache.parent / "file"))
    sharded_source._indexed.cache_clear()
    with pytest.raises(UserError, match="cannot write to the cache"):
        opened("webdataset", packed / "webdataset", "train")


def test_without_pyarrow_one_line_names_the_package(packed, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'focalnet_jax\[parquet\]'"):
        opened("parquet", packed / "parquet", "train")
