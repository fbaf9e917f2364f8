"""Data sets of tensorflow-datasets are read by index, with slices, and with one or several labels per image."""

import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from focalnet_jax.data.decode import decode
from focalnet_jax.data.loader import ReadOptions, eval_batches, train_batches
from focalnet_jax.data.sources import open_source
from focalnet_jax.data.substitutions import READABLE
from focalnet_jax.data.tfds_source import TfdsSource
from focalnet_jax.data.transforms import eval_transform, train_transform
from focalnet_jax.errors import UserError
from focalnet_jax.tasks.classification.host import ClassificationHost
from tests.data.flowers import NAMES, make_data_set


@pytest.fixture
def flowers(tmp_path):
    label = {"label": tfds.features.ClassLabel(names=NAMES)}
    return make_data_set(tmp_path / "flowers" / "1.0.0", label, [number % 3 for number in range(20)])


@pytest.mark.parametrize(
    ("split", "numbers"),
    [("train", range(20)), ("train[:30%]", range(6)), ("train[15:]", range(15, 20)), ("train[5:8]+train[1:2]", None)],
)
def test_splits_and_slices_are_tfds(flowers, split, numbers):
    source = open_source("tfds", str(flowers), split)
    levels = [int(decode(source[index][0])[0, 0, 0]) for index in range(len(source))]
    assert sorted(levels) == sorted(numbers or [5, 6, 7, 1])
    assert [int(source[index][1]) for index in range(len(source))] == [level % 3 for level in levels]
    assert source.class_names == tuple(NAMES)


def test_a_folder_above_the_data_set_is_enough(flowers):
    assert len(TfdsSource(str(flowers.parent.parent), "train")) == 20
    assert len(TfdsSource(str(flowers.parent), "train")) == 20


def test_slices_and_data_sets_have_fingerprints_of_their_own(flowers, tmp_path):
    label = {"label": tfds.features.ClassLabel(names=NAMES)}
    other = make_data_set(tmp_path / "other" / "1.0.0", label, [number % 3 for number in range(21)])
    prints = {TfdsSource(str(flowers), split).fingerprint for split in ("train", "train[:50%]", "train[50%:]")}
    assert len(prints | {TfdsSource(str(other), "train").fingerprint}) == 4
    assert TfdsSource(str(flowers.parent), "train").fingerprint in prints  # however the path is given
    shutil.copytree(flowers, tmp_path / "copy" / "flowers" / "1.0.0")
    assert TfdsSource(str(tmp_path / "copy"), "train").fingerprint in prints  # and wherever the files are


def test_several_labels_are_filled_up(tmp_path):
    label = {"real_label": tfds.features.Sequence(tfds.features.ClassLabel(names=NAMES))}
    source = TfdsSource(str(make_data_set(tmp_path / "real" / "1.0.0", label, [[0], [2, 1], []])), "train")
    labels = [source[index][1] for index in range(3)]
    assert [sorted(row[row >= 0].tolist()) for row in labels] == [[0], [1, 2], []]
    assert len({row.shape for row in labels}) == 1


def test_missing_data_sets_and_splits_are_refused_in_one_line(flowers, tmp_path, monkeypatch):
    # Without a network, asking Google's storage for each takes ten seconds.
    monkeypatch.setattr("tensorflow_datasets.core.utils.gcs_utils._is_gcs_disabled", True)
    for path, split, message in (
        (str(flowers), "test", "has no split 'test', or it is empty; expected train"),
        (str(flowers), "train[:x]", "has no split"),
        (str(flowers), "train[20:]", "or it is empty"),
        (str(flowers), "train[15:10]", "or it is empty"),
        (str(flowers), "train[80%:10%]", "or it is empty"),
        (str(tmp_path / "nowhere"), "train", "nowhere is not a directory"),
        ("no_such_set", "train", "neither a directory nor a data set"),
        ("mnist", "train", "is not prepared"),
        ("huggingface:x", "train", "neither a directory nor a data set"),
        (None, "train", "needs data.path"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            TfdsSource(path, split)
        assert "\n" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="found none"):
        TfdsSource(str(tmp_path / "empty"), "train")
    for file in ("dataset_info.json", "card.json", next(flowers.glob("*array_record*")).name):
        path = flowers / file
        content = path.read_bytes() if path.exists() else b'{"fingerprint": "x"}'
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match=r"prepare (it|the data) again") as caught:
            TfdsSource(str(flowers), "train")
        assert "\n" not in str(caught.value)
        path.write_bytes(content)
    assert len(TfdsSource(str(flowers), "train")) == 20
    (flowers / "features.json").unlink()
    with pytest.raises(UserError, match="prepare it again"):
        TfdsSource(str(flowers), "train")


@pytest.mark.parametrize("path", ["huggingface:x", "huggingface:x/y:1.0.0", "kaggle:x", "no_such_set", "mnist"])
def test_a_missing_data_set_is_an_error_without_a_request_to_the_network(path, tmp_path, monkeypatch):
    from tensorflow_datasets.core import community, load

    requests = []

    def request(*arguments, **_):
        requests.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", request)
    monkeypatch.setattr("socket.socket.connect", request)
    # The functions of tfds that look up data sets of the community on the network, if huggingface_hub is installed.
    monkeypatch.setattr(load.huggingface_dataset_builder, "builder", request)
    monkeypatch.setattr(community, "community_register", request)
    with pytest.raises(UserError, match=f"data.path={path} is neither|is not prepared") as caught:
        TfdsSource(path, "train")
    assert "\n" not in str(caught.value)
    assert not requests


def test_labels_without_classes_are_refused(tmp_path):
    folder = make_data_set(tmp_path / "plain" / "1.0.0", {"label": tfds.features.Scalar(np.int64)}, [0, 1])
    with pytest.raises(UserError, match="expected a ClassLabel"):
        TfdsSource(str(folder), "train")
    folder = make_data_set(tmp_path / "none" / "1.0.0", {"colour": tfds.features.Scalar(np.int64)}, [0, 1])
    with pytest.raises(UserError, match="expected image and label or real_label"):
        TfdsSource(str(folder), "train")


def test_a_damaged_record_is_an_image_that_cannot_be_read_and_a_missing_file_is_named(flowers):
    file = next(flowers.glob("*.array_record-*"))
    content = bytearray(file.read_bytes())
    at = content.index(b"IHDR")  # in the first example
    content[at : at + 4] = bytes(4)
    file.write_bytes(content)
    source = TfdsSource(str(flowers), "train")
    host = ClassificationHost(train_transform(8, (1.0, 1.0), (1.0, 1.0), 0.0), eval_transform(8))
    with pytest.raises(
        UserError, match=r"cannot read image example \(flowers/1.0.0 train, 0\) \(its record is damaged"
    ):
        list(eval_batches(source, host, batch_size=2, reading=ReadOptions(threads=0)))
    options = dict(batch_size=20, seed=0, start_step=0, end_step=1, reading=ReadOptions(threads=0))
    (batch,) = train_batches(source, host, **options)
    assert sorted(set(batch["unreadable"])) == [READABLE, 0]
    assert sorted(batch["image"][:, 0, 0, 0]) == sorted([1, *range(1, 20)])  # the next example replaces it
    file.unlink()
    with pytest.raises(UserError, match=r"lacks .*flowers-train.array_record-00000-of-00001: copy it again"):
        TfdsSource(str(flowers), "train")
