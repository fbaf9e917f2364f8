"""A stopped preparation resumes with the same result; changed sources are errors."""

import shutil

import pytest
from PIL import Image

from focalnet_jax.data.prepare.__main__ import main
from tests.data.pictures import READABLE, SYNSETS, encoded
from tests.data.preparing import SMALL, contents, in_process, killed, prepare, refused, write_tar  # noqa: F401


def test_a_preparation_killed_at_any_time_resumes_and_ends_the_same(pictures, tmp_path):
    arguments = [
        "imagefolder", "--source", pictures, "--processes", "1", "--shard-mb", "0.01", "--out", tmp_path / "out"
    ]  # fmt: skip
    folder = tmp_path / "out" / "images" / "1.0.0"
    # killed while it indexes, while it writes, and at its end
    for wanted in (".prepare/*.npy", ".prepare/train-00003.json", ".prepare/val-*.json", "manifest.jsonl"):
        killed(folder, wanted, *arguments)
        assert (folder / ".prepare").exists()
    done = prepare(*arguments)
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stdout or "finished" in done.stdout
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
    assert "already contains this data set" in prepare(*arguments).stdout
    refused("shard_bytes was 10000, now 2000000", *arguments, "--shard-mb", "2")


@pytest.mark.usefixtures("in_process")
def test_other_data_is_not_called_finished_and_a_corrected_command_is_not_held_to_the_wrong_one(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "set")
    new = tmp_path / "set" / "train" / "fresh"
    arguments = ["imagefolder", "--source", tmp_path / "set", "--out", tmp_path / "out", *SMALL]
    new.mkdir()
    refused("fresh contains no images: fill it", *arguments)
    assert not (tmp_path / "out").exists()
    (tmp_path / "names.txt").write_text("other\n")
    refused("no image of a known class", *arguments, "--classes", tmp_path / "names.txt")
    assert not (tmp_path / "out").exists()
    picture = next((pictures / "train" / SYNSETS[1]).iterdir())
    shutil.copy(picture, new / "1.jpg")
    assert main(list(map(str, arguments))) == 0
    shutil.copy(picture, new / "2.jpg")
    refused("images was 44, now 45", *arguments)
    (new / "2.jpg").unlink()
    (tmp_path / "out" / "images" / "1.0.0" / ".prepare").mkdir()  # left by a kill at the very end
    assert main(list(map(str, arguments))) == 0
    assert not (tmp_path / "out" / "images" / "1.0.0" / ".prepare").exists()
    shutil.copy(picture, new / "1.jpg")  # same size, but a new modification time
    refused("sources was", *arguments)
    (new / "broken.jpg").symlink_to(tmp_path / "nowhere")
    refused("broken.jpg: No such file", *arguments[:3], "--out", tmp_path / "another")


def test_a_tar_changed_at_the_same_size_between_a_kill_and_the_next_start_is_refused(tmp_path):
    """With the old index, the new images would have the old labels."""
    colours = {label: [encoded(Image.new("RGB", (8, 8), (n, 9, 9)), "BMP") for n in range(60)] for label in ("a", "b")}
    one = {f"{label}/{n}.bmp": content for label in "ab" for n, content in enumerate(colours[label])}
    path = write_tar(tmp_path / "set.tar", one)
    size = path.stat().st_size
    arguments = ["imagefolder", "--source", path, "--out", tmp_path / "out", "--processes", "1", "--shard-mb", "0.001"]
    killed(tmp_path / "out" / "images" / "1.0.0" / ".prepare", "train-*.json", *arguments)
    other = write_tar(tmp_path / "other.tar", dict(reversed(one.items())))
    assert other.stat().st_size == size
    other.replace(path)
    refused("belongs to another preparation: sources was", *arguments)


def test_two_preparations_of_the_same_are_the_same_to_the_byte(pictures, from_folders, tmp_path):
    done = prepare("imagefolder", "--source", pictures, "--out", tmp_path, "--processes", "1", "--shard-mb", "1")
    assert done.returncode == 0, done.stderr
    for path in from_folders.iterdir():
        assert (tmp_path / "images" / "1.0.0" / path.name).read_bytes() == path.read_bytes(), path.name
