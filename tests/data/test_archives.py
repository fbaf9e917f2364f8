"""Tars and folders give the same index; damaged ones are errors; images are divided evenly among shards."""

import numpy as np
import pytest

from focalnet_jax.data.prepare.containers import Container, tar
from focalnet_jax.data.prepare.index import Index, Member
from focalnet_jax.data.prepare.indexing import index_container
from focalnet_jax.data.prepare.naming import SPLITS
from focalnet_jax.data.prepare.plan import plan_shards
from focalnet_jax.errors import UserError
from tests.data.layouts import pack
from tests.data.preparing import write_tar


def index_of(label, names, size):
    return Index.of(Member(name, 0, size, 0, label, 0, f"{label}/{name}") for name in names)


def test_slices_of_a_split_hold_all_classes(tmp_path):
    def plan(count, shard_bytes):
        indices = [index_of(str(label), [f"{number}.jpg" for number in range(count)], 1000) for label in range(4)]
        return plan_shards(indices, list("0123"), held_out=0.0, shard_bytes=shard_bytes)

    shards = plan(30_000, 10_000_000)
    assert len(shards) == 12
    seen = [tuple(place) for shard in shards for place in shard.members.tolist()]
    assert len(seen) == len(set(seen)) == 120_000
    for shard in shards:
        labels = shard.members[:, 0]
        for half in np.array_split(labels, 2):
            # 312 runs of 16 images of 4 classes: 78 +- 7.6 runs of each
            assert (np.bincount(half, minlength=4) > 16 * 40).all()
    # a small set is a single shard, in which single images are shuffled
    (shard,) = plan(100, 10_000_000)
    labels = shard.members[:, 0]
    assert len(labels) == 400
    for half in np.array_split(labels, 2):
        assert (np.bincount(half, minlength=4) > 30).all()  # 50 +- 4.3


def test_a_damaged_or_cut_tar_is_refused_wherever_the_damage_is(tmp_path):
    whole = write_tar(tmp_path / "n01440764.tar", {f"n01440764_{n}.JPEG": bytes(700) for n in range(10)})
    content = whole.read_bytes()

    def index(content, offset=0):
        path = tmp_path / "changed.tar"
        path.write_bytes(content)
        container = Container(str(path), offset, path.stat().st_size - offset, class_name="n01440764")
        return index_container(container)

    assert len(index(content)) == 10
    assert len(index(bytes(512) + content, 512)) == 10
    member = 512 + 1024  # a header and the content
    for damaged in (
        content[: 3 * member] + b"\xff" + content[3 * member + 1 :],
        content[: 4 * member],
        content[: 4 * member + 100],
        content[: 4 * member + 600],
        b"\xff" * 5000,
    ):
        with pytest.raises(UserError, match=r"damaged|truncated"):
            index(damaged)
        with pytest.raises(UserError, match=r"damaged|truncated"):
            index(bytes(512) + damaged, 512)


def test_one_image_that_unpacks_without_end_is_refused_before_it_is_copied(tmp_path, monkeypatch):
    monkeypatch.setattr("focalnet_jax.data.prepare.containers.GROWTH_BYTES", 0)
    path = tmp_path / "set.tar.gz"
    path.write_bytes(pack({"cat/1.png": bytes(5_000_000)}, "w:gz"))
    assert path.stat().st_size < 50_000
    with pytest.raises(UserError, match="unpacks to more than"):
        index_container(tar(path), spool=tmp_path / "0.spool")
    assert (tmp_path / "0.spooling").stat().st_size == 0


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
    assert [(SPLITS[m["split"]], m["class_name"].decode()) for m in index.members] == expected


def test_same_names_in_all_classes_are_held_out_independently():
    names = [f"{n}.png" for n in range(200)]
    cat, dog = (index_of(label, names, 1).members["hash"] for label in ("cat", "dog"))
    both = ((cat < 2**31) & (dog < 2**31)).sum()
    assert 30 < both < 70  # a quarter of 200, +- 6
