"""Class-balanced sampling draws classes in the right shares, and all examples of a class equally often."""

import numpy as np
import pytest

from focalnet_jax.data import balance
from focalnet_jax.data.balance import Balance, balanced_weights, labels_of
from focalnet_jax.data.decode import UnreadableImageError
from focalnet_jax.data.digits_source import DigitsSource
from focalnet_jax.data.loader import HostPlaces, ReadOptions, train_batches
from focalnet_jax.data.order import shuffled_index, steps_per_epoch
from focalnet_jax.data.transforms import train_transform
from focalnet_jax.errors import UserError
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.tasks.classification.host import ClassificationHost
from tests.data.flowers import make_data_set
from tests.specs import open_task

LONG_TAILED = np.repeat(np.arange(5), [600, 250, 100, 40, 10])  # 1000 labels
SHUFFLED = np.random.default_rng(0).permutation(LONG_TAILED)


def stream(labels, power, epochs, batch_size=50, seed=0, repeats=1):
    order = Balance(labels, power)
    length = steps_per_epoch(len(labels), batch_size) * batch_size
    return [
        [shuffled_index(e * length + p, len(labels), batch_size, seed, repeats, order) for p in range(length)]
        for e in range(epochs)
    ]


@pytest.mark.parametrize(
    ("power", "expected"),  # 1000 draws in proportion to n ** (1 - power), rounded by largest remainders
    [(1.0, [200, 200, 200, 200, 200]), (0.0, [600, 250, 100, 40, 10]), (0.5, [410, 264, 167, 106, 53])],
)
def test_classes_are_drawn_in_proportion_to_a_power_of_their_sizes(power, expected):
    shares = np.array([600, 250, 100, 40, 10]) ** (1 - power)
    assert np.abs(1000 * shares / shares.sum() - expected).max() < 1
    for epoch in stream(SHUFFLED, power, 3):
        assert np.bincount(SHUFFLED[epoch]).tolist() == expected


def test_all_examples_of_a_class_come_equally_often_and_no_example_of_a_class_twice_before_each_came_once():
    epochs = stream(SHUFFLED, 1.0, 6)
    drawn = [index for epoch in epochs for index in sorted(epoch, key=lambda index: SHUFFLED[index])]
    counts = np.bincount(drawn, minlength=1000)
    for label, size in enumerate([600, 250, 100, 40, 10]):
        mine = counts[label == SHUFFLED]
        assert mine.sum() == 6 * 200
        assert mine.max() - mine.min() <= 1, size
    of_largest = [index for index in epochs[0] if SHUFFLED[index] == 0]
    assert len(set(of_largest)) == 200


def test_without_balance_an_epoch_holds_every_example_once():
    (epoch,) = stream(SHUFFLED, 0.0, 1)
    assert sorted(epoch) == list(range(1000))


def test_seeds_and_epochs_differ_and_repeats_are_consecutive():
    first, second = stream(SHUFFLED, 1.0, 2)
    (other,) = stream(SHUFFLED, 1.0, 1, seed=1)
    assert first != second
    assert first != other
    (repeated,) = stream(SHUFFLED, 1.0, 1, repeats=5)
    assert repeated[::5] == repeated[4::5]
    assert len(set(repeated[::5])) > 150


@pytest.mark.parametrize("labels", [[0, 2, 2, 2], [1] * 7, [0, 1]])
def test_classes_of_one_image_or_of_none_do_no_harm(labels):
    labels = np.array(labels)
    for epoch in stream(labels, 1.0, 4, batch_size=1):
        assert set(labels[epoch]) == set(labels)


def test_hosts_resumption_and_threads_change_nothing():
    digits = DigitsSource("train")
    keep = np.sort(
        np.argsort(digits.labels * 2000 + np.arange(len(digits)), kind="stable")[:700]
    )  # some classes are rarer

    class Few:
        class_names, labels = digits.class_names, digits.labels[keep]

        def __len__(self):
            return len(keep)

        def __getitem__(self, index):
            return digits[int(keep[index])]

    source = Few()
    host = ClassificationHost(train_transform(16, (0.3, 1.0), (3 / 4, 4 / 3), 0.5), None)

    def batches(start, end, **reading):
        steps = dict(batch_size=24, seed=3, start_step=start, end_step=end, balance=Balance(labels_of(source), 1.0))
        return list(train_batches(source, host, **steps, reading=ReadOptions(**{"threads": 0, **reading})))

    whole = batches(0, 40)
    for threads, start in ((3, 33), (0, 20)):
        for left, right in zip(whole[start:], batches(start, 40, threads=threads), strict=True):
            assert all(np.array_equal(left[name], right[name]) for name in left)
    parts = [batches(5, 8, host=HostPlaces(index, 2)) for index in range(2)]
    for step, together in enumerate(whole[5:8]):
        assert np.array_equal(np.concatenate([part[step]["label"] for part in parts]), together["label"])


def test_memory_is_four_bytes_an_example():
    labels = np.random.default_rng(0).integers(0, 1000, 200_000).astype(np.int32)
    order = Balance(labels, 1.0)
    arrays = [value for value in vars(order).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) < 4 * len(labels) + 40 * 1000


def test_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    expected = compute_class_weight("balanced", classes=np.arange(5), y=SHUFFLED)
    np.testing.assert_allclose(balanced_weights(np.bincount(SHUFFLED)), expected, rtol=1e-12)
    assert balanced_weights(np.array([3, 0, 1])).tolist() == [4 / 6, 0, 2]
    assert balanced_weights(np.bincount(SHUFFLED))[SHUFFLED].mean() == pytest.approx(1)


def test_labels_that_a_source_does_not_list_are_read_once(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    from focalnet_jax.data.tfds_source import TfdsSource

    monkeypatch.setattr(balance, "_CACHE", str(tmp_path / "kept"))
    labels = [2, 0, 1, 1, 0, 2, 2]
    names = tfds.features.ClassLabel(names=["rose", "tulip", "daisy"])
    source = TfdsSource(str(make_data_set(tmp_path / "flowers", {"label": names}, labels)), "train")
    assert labels_of(source).tolist() == labels
    monkeypatch.setattr(TfdsSource, "__getitem__", None)
    assert labels_of(source).tolist() == labels


def test_examples_with_several_labels_cannot_be_balanced(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    from focalnet_jax.data.tfds_source import TfdsSource

    monkeypatch.setattr(balance, "_CACHE", str(tmp_path / "kept"))
    label = {"real_label": tfds.features.Sequence(tfds.features.ClassLabel(names=["rose", "tulip"]))}
    source = TfdsSource(str(make_data_set(tmp_path / "real", label, [[0], [0, 1], [1]])), "train")
    with pytest.raises(UserError, match=r"class balancing needs one label per image, but .* has several"):
        labels_of(source)


def test_a_damaged_record_has_the_label_of_the_one_that_replaces_it(tmp_path, monkeypatch):
    monkeypatch.setattr(balance, "_CACHE", str(tmp_path))

    class Damaged:
        fingerprint, broken = "0", {1, 2, 4}

        def __len__(self):
            return 5

        def __getitem__(self, index):
            if index in self.broken:
                raise UnreadableImageError("damaged")
            return None, np.int32(index)

        def name(self, index):
            return f"example {index}"

    assert labels_of(Damaged()).tolist() == [0, 3, 3, 3, 0]
    Damaged.fingerprint, Damaged.broken = "1", set(range(5))
    with pytest.raises(UserError, match="cannot read example 0"):
        labels_of(Damaged())


def test_a_task_sorts_the_labels_of_its_examples_once():
    task = open_task(load_config("configs/quickstart.py", ["--config.data.class_balance=0.5"]))
    assert task.balance is task.balance
    assert open_task(load_config("configs/quickstart.py")).balance is None
