"""Data sets that cannot be used for training are errors that name the reason; of others, every example is used."""

import tarfile

import pytest
import tensorflow_datasets as tfds

from focalnet_jax.data.digits_source import DigitsSource
from focalnet_jax.data.folder_source import FolderSource
from focalnet_jax.data.loader import HostPlaces, ReadOptions, eval_batches
from focalnet_jax.data.prepare.containers import tar
from focalnet_jax.data.prepare.indexing import index_container
from focalnet_jax.data.source import check_class_count, check_examples
from focalnet_jax.data.sources import open_source
from focalnet_jax.data.tfds_source import TfdsSource
from focalnet_jax.data.transforms import eval_transform
from focalnet_jax.errors import UserError
from focalnet_jax.tasks.classification.host import ClassificationHost
from tests.data.flowers import NAMES, make_data_set
from tests.data.pictures import write_colours
from tests.data.preparing import refused


@pytest.fixture
def folder(tmp_path):
    write_colours(tmp_path)
    return tmp_path


def refuse(message, path, split="train"):
    with pytest.raises(UserError) as caught:
        open_source("folder", path, split)
    assert message in str(caught.value)


@pytest.mark.fault(36)
@pytest.mark.fault(38)
def test_folders_that_cannot_be_trained_on_are_refused(folder):
    refuse("needs data.path", None)
    refuse("does not exist", str(folder / "nowhere"))
    refuse("no split 'test'; it contains train, val", str(folder), "test")
    (folder / "empty").mkdir()
    refuse("no class folders", str(folder), "empty")
    (folder / "hollow" / "green").mkdir(parents=True)
    refuse("green contains no images", str(folder), "hollow")
    (folder / "train" / "green").mkdir()
    with pytest.raises(UserError, match=r"green contains no images; .* remove the folder from all splits"):
        check_examples(FolderSource(str(folder), "train"))


@pytest.mark.fault(37)
def test_classes_must_fit_the_classifier(folder):
    train = FolderSource(str(folder), "train")
    check_class_count(train, 2)
    with pytest.raises(UserError, match=r"num_classes=2"):
        check_class_count(train, 1)


@pytest.mark.fault(37)
def test_an_example_without_a_label_is_refused_where_one_is_needed(tmp_path):
    label = {"label": tfds.features.ClassLabel(names=NAMES)}
    source = TfdsSource(str(make_data_set(tmp_path / "flowers" / "1.0.0", label, [0, -1, 2])), "train")
    read = eval_batches(
        source, ClassificationHost(None, eval_transform(8)), batch_size=2, reading=ReadOptions(threads=1)
    )
    with pytest.raises(UserError, match=r"flowers/1.0.0 train, 1\) has label -1; expected 0 to 2"):
        list(read)


@pytest.mark.fault(39)
@pytest.mark.parametrize(("batch_size", "hosts"), [(450, 1), (449, 1), (7, 1), (64, 4), (1000, 2)])
def test_evaluation_counts_every_example_exactly_once(batch_size, hosts):
    source = DigitsSource("val")
    counted = []
    lengths = []
    for index in range(hosts):
        read = list(
            eval_batches(
                source,
                ClassificationHost(None, eval_transform(8, 8)),
                batch_size=batch_size,
                reading=ReadOptions(threads=2, host=HostPlaces(index, hosts)),
            )
        )
        lengths.append(len(read))
        for batch in read:
            assert batch["image"].shape == (batch_size // hosts, 8, 8, 3)
            real = batch["mask"] == 1
            counted += [image.tobytes() for image in batch["image"][real]]
    assert len(set(lengths)) == 1  # every host has the same number of steps
    expected = sorted(source[index][0].tobytes() for index in range(len(source)))
    assert sorted(counted) == expected


@pytest.mark.fault(41)
@pytest.mark.parametrize(
    "member",
    [
        dict(name="../evil.jpg"),
        dict(name="/etc/evil.jpg"),
        dict(name="."),
        dict(name="./"),
        dict(name="link.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        dict(name="hard.jpg", type=tarfile.LNKTYPE, linkname="other.jpg"),
    ],
    ids=lambda member: member["name"],
)
def test_a_tar_with_links_or_paths_outside_of_it_is_refused(tmp_path, member):
    path = tmp_path / "n01440764.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo()
        for key, value in member.items():
            setattr(info, key, value)
        archive.addfile(info)
    with pytest.raises(UserError, match="a link, leads outside of the archive"):
        index_container(tar(path, class_name="n01440764"))
    refused("unsafe", "imagefolder", "--source", path, "--out", tmp_path / "out")
