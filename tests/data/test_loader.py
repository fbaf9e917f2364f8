"""The order of examples is a pure function of seed and step, for any number of readers and start step."""

import itertools

import numpy as np
import pytest

from focalnet_jax.data.digits_source import DigitsSource
from focalnet_jax.data.folder_source import FolderSource
from focalnet_jax.data.loader import HostPlaces, ReadOptions, train_batches
from focalnet_jax.data.order import shuffled_index, steps_per_epoch
from focalnet_jax.data.transforms import eval_transform, train_transform
from focalnet_jax.errors import UserError
from focalnet_jax.tasks.classification.host import ClassificationHost
from tests.data.pictures import write_pictures

HOST = ClassificationHost(train_transform(16, (0.3, 1.0), (3 / 4, 4 / 3), 0.5), eval_transform(16))


@pytest.fixture(scope="module")
def digits():
    return DigitsSource("train")


def batches(source, start, end, *, seed=0, repeats=1, **reading):
    options = ReadOptions(**{"threads": 2, **reading})
    steps = dict(batch_size=24, seed=seed, start_step=start, end_step=end, repeats=repeats)
    return list(train_batches(source, HOST, **steps, reading=options))


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_a_stream_started_later_is_the_rest_of_the_whole_one(digits):
    assert_same(batches(digits, 0, 60)[53:], batches(digits, 53, 60))  # an epoch is 56 steps


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_the_number_of_threads_does_not_matter(digits, threads):
    assert_same(batches(digits, 3, 8, threads=threads), batches(digits, 3, 8))


@pytest.mark.parametrize("count", [2, 4, 8])
def test_hosts_together_read_the_global_batch(digits, count):
    parts = [batches(digits, 3, 6, host=HostPlaces(index, count)) for index in range(count)]
    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]} for step in zip(*parts, strict=True)
    ]
    assert_same(joined, batches(digits, 3, 6))


def test_seeds_and_epochs_differ(digits):
    first, other_seed = (batches(digits, 0, 1, seed=seed)[0]["image"] for seed in (0, 1))
    next_epoch = batches(digits, 56, 57)[0]["image"]
    assert not np.array_equal(first, other_seed)
    assert not np.array_equal(first, next_epoch)


@pytest.mark.parametrize(("examples", "batch_size"), [(103, 10), (64, 64), (7, 2)])
def test_an_epoch_holds_no_example_twice_and_leaves_out_less_than_a_batch(examples, batch_size):
    length = steps_per_epoch(examples, batch_size) * batch_size
    assert examples - length < batch_size
    orders = [[shuffled_index(e * length + p, examples, batch_size, seed=3) for p in range(length)] for e in range(3)]
    for order in orders:
        assert len(set(order)) == length
        assert set(order) <= set(range(examples))
    assert orders[0] != orders[1] != orders[2]


def test_examples_left_out_change_from_epoch_to_epoch():
    kept = [{shuffled_index(e * 100 + p, 103, 10, seed=0) for p in range(100)} for e in range(20)]
    assert set.union(*kept) == set(range(103))
    assert len(set.intersection(*kept)) < 90


def test_a_batch_larger_than_the_data_is_refused(digits):
    with pytest.raises(UserError, match="1347 training examples"):
        steps_per_epoch(len(digits), 2000)


def test_flip_and_crop_are_drawn_separately_for_each_example(digits):
    seen = {batch["image"][place].tobytes() for batch in batches(digits, 0, 4) for place in range(24)}
    assert len(seen) == 4 * 24
    labels = list(itertools.chain.from_iterable(batch["label"] for batch in batches(digits, 0, 56)))
    assert np.bincount(labels).min() > 100  # all ten classes of 1344 examples


def test_repeated_augmentation_shows_an_example_several_times_in_a_row_each_time_otherwise(tmp_path):
    write_pictures(tmp_path)
    val = FolderSource(str(tmp_path), "val")
    steps = dict(batch_size=8, seed=0, start_step=0, end_step=1, repeats=2)
    stream = train_batches(val, HOST, **steps, reading=ReadOptions(threads=0))
    batch = next(stream)
    labels = batch["label"].reshape(4, 2)
    assert (labels[:, 0] == labels[:, 1]).all()
    images = batch["image"].reshape(4, 2, -1)
    assert all((first != second).any() for first, second in images)
