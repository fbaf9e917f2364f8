"""The commands python -m focalnet_jax.visualize and predict, as a user types them."""

import json
import re
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from focalnet_jax.errors import UserError
from focalnet_jax.visualize.__main__ import main
from tests.commands import assert_one_line_mistake, run


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Two photos in a folder, and an animation and a video of a window that moves over one of them."""
    folder = tmp_path_factory.mktemp("shown")
    china, flower = load_sample_images().images
    (folder / "photos" / "more").mkdir(parents=True)
    Image.fromarray(china).save(folder / "photos" / "china.jpg")
    Image.fromarray(flower).save(folder / "photos" / "more" / "flower.png")
    frames = [Image.fromarray(china[:200, 40 * place : 40 * place + 300]) for place in range(5)]
    frames[0].save(folder / "going.gif", save_all=True, append_images=frames[1:], duration=70, loop=0)
    (folder / "frames").mkdir()
    for place, frame in enumerate(frames):
        frame.save(folder / "frames" / f"{place}.png")
    return folder


def visualize(*arguments):
    return run("-m", "focalnet_jax.visualize", *arguments)


def test_pictures_become_figures_and_numbers_and_animations_stay_such(staged, shown, tmp_path):
    workdir, _ = staged
    arguments = ["--checkpoint", workdir, "--images", shown / "photos", shown / "going.gif", "--out", tmp_path / "out"]
    done = visualize(*arguments, "--frames", shown / "frames", "--size", "32", "--topk", "2")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("china.png", "china.npz", "flower.png", "flower.npz"),
        *("going.gif", "going.npz", "frames.gif", "frames.npz"),
        *("kernels.png", "kernels.npz", "receptive_field.png", "receptive_field.npz"),
    }
    held = np.load(tmp_path / "out" / "china.npz")
    assert held["picture"].shape == (32, 48, 3)  # 427x640, resized to multiples of 8
    assert (held["stage1/modulator"].shape, held["stage2/gates"].shape) == ((1, 8, 12), (2, 4, 6, 3))
    assert len([name for name in held if name.startswith("activation/")]) == 2
    figure = Image.open(tmp_path / "out" / "china.png")
    assert figure.height > 400
    assert len(figure.getcolors(2**24)) > 1000
    with Image.open(tmp_path / "out" / "going.gif") as animation:
        assert (animation.n_frames, animation.info["duration"]) == (5, 70)
        # Image, modulator, and gates of two levels and the global level, enlarged four times so that names have room.
        assert animation.size == (4 * 48 * 5, 14 + 4 * 32 + 14)
    again = visualize(*arguments)
    assert_one_line_mistake(again, "already exists; choose another --out or give --overwrite")


def test_a_video_is_read_frame_by_frame(staged, shown, tmp_path):
    frames = np.stack([np.asarray(Image.open(shown / "frames" / f"{place}.png"))[:192, :288] for place in range(5)])
    imageio.imwrite(tmp_path / "clip.mp4", frames, plugin="FFMPEG", fps=5)
    workdir, _ = staged
    done = visualize(
        "--checkpoint",
        workdir,
        "--images",
        tmp_path / "clip.mp4",
        "--out",
        tmp_path / "out",
        "--every",
        "2",
        "--stage",
        "1",
    )
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(tmp_path / "out" / "clip.gif") as animation:
        assert (animation.n_frames, animation.info["duration"]) == (3, 400)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--images and --frames are missing"),
        (["--images", "nothing.png"], "nothing.png: there is no such file or folder"),
        (["--images", "README.md"], "README.md is not an image that can be read"),
        (["--images", "README.md", "--stage", "3"], "--stage 3: the model has 2 stages; expected 1 to 2"),
        (["--images", "README.md", "--stage", "1", "--block", "2"], "--block 2: a stage has at most 1 blocks"),
        (["--images", "README.md", "--out", "README.md"], "README.md is a file; expected a folder"),
        (["--frames", "README.md"], "--frames README.md: expected a folder"),
        (["--imags", "README.md"], "--imags"),
        (["--images", "README.md", "--topk", "250"], "--topk 250: expected 0 to 20"),
        (["--images", "x" * 300], "there is no such file or folder"),
    ],
)
def test_a_mistake_gets_one_line(staged, tmp_path, arguments, message):
    workdir, _ = staged
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        main(["--checkpoint", str(workdir), "--out", str(tmp_path / "out"), *arguments])
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.rglob("*.png"))


def test_predictions_name_all_classes_with_their_probabilities_and_the_likeliest_in_words(staged, tmp_path):
    from sklearn.datasets import load_digits

    workdir, _ = staged
    digits = load_digits()
    for place in range(3):
        picture = Image.fromarray(np.uint8(digits.images[place] * 255 / 16))
        picture.save(tmp_path / f"{place}.png")
    flags = ["--checkpoint", workdir, "--json", "--topk", "10"]
    done = run("-m", "focalnet_jax.predict", tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["picture"].rsplit("/", 1)[1] for row in rows] == ["0.png", "1.png", "2.png"]
    for row in rows:
        assert {each["label"] for each in row["classes"]} == set("0123456789")
        assert sum(each["probability"] for each in row["classes"]) == pytest.approx(1, rel=1e-5)
    words = run("-m", "focalnet_jax.predict", tmp_path / "0.png", "--checkpoint", workdir, "--topk", "1")
    best = rows[0]["classes"][0]
    assert words.stdout.strip() == f"{tmp_path / '0.png'}: {best['label']} {best['probability']:.1%}"
    assert_one_line_mistake(run("-m", "focalnet_jax.predict", tmp_path / "x.png", *flags), "no such file or folder")


def test_a_picture_that_cannot_be_read_does_not_keep_the_others_from_it(staged, tmp_path):
    workdir, _ = staged
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("a.png", "c.png"):
        Image.new("RGB", (16, 16), "red").save(pictures / name)
    for name in ("b.png", "d.png"):
        (pictures / name).write_text("no picture")
    named = run("-m", "focalnet_jax.predict", pictures, "--checkpoint", workdir)
    assert [Path(line.split(":")[0]).name for line in named.stdout.splitlines()] == ["a.png", "c.png"]
    assert_one_line_mistake(named, "b.png is not an image that can be read")
    assert "d.png is not an image" in named.stderr


def test_figures_do_not_come_among_the_pictures_of_a_folder(staged, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg")
    for out in (tmp_path, tmp_path / "maps"):
        with pytest.raises(UserError, match="so the next run would draw these figures too"):
            main(["--checkpoint", str(staged[0]), "--images", str(tmp_path), "--out", str(out)])
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]
