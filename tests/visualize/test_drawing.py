"""Figures of images, videos and the model, and the arrays in the .npz files."""

import io
import re

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from focalnet_jax import visualize
from focalnet_jax.data.normalization import normalize
from focalnet_jax.data.preprocessing import Preprocessing
from focalnet_jax.errors import UserError
from focalnet_jax.inference import Classifier
from focalnet_jax.visualize.drawing import DrawOptions, draw, fit
from focalnet_jax.visualize.figures import Activation, BlockMaps, as_png, picture_figure
from tests.models import drawn_model

CHOSEN = DrawOptions(stages=(1,), block=0, topk=4)


@pytest.fixture(scope="module")
def classifier():
    model = drawn_model("focalnet_tiny_srf", embed_dim=8, depths=(1, 2), num_classes=4)
    return Classifier(model, ("maillot", "maillot, tank suit", "c", "d"), Preprocessing().at((32, 32)))


@pytest.fixture(scope="module")
def drawn(classifier, tmp_path_factory):
    """Draws an image, frames and two damaged files; returns source and output folders, and the error message."""
    folder = tmp_path_factory.mktemp("drawn")
    china = load_sample_image("china.jpg")
    Image.fromarray(china).save(folder / "kernels.jpg")  # the name of a figure of the model
    (folder / "frames").mkdir()
    for place in range(2):
        Image.fromarray(china[:200, 40 * place : 40 * place + 300]).save(folder / "frames" / f"{place}.png")
    for name in ("broken.gif", "broken.mp4"):
        (folder / name).write_text("nothing")
    pictures, videos = [folder / "broken.gif", folder / "kernels.jpg"], [folder / "broken.mp4", folder / "frames"]
    with pytest.raises(UserError) as caught:
        draw(classifier, pictures, videos, folder / "out", CHOSEN)
    return folder / "out", str(caught.value)


def test_what_cannot_be_read_is_named_when_all_others_are_drawn(drawn):
    out, message = drawn
    assert {path.name for path in out.iterdir()} == {
        *("kernels.jpg.png", "kernels.jpg.npz", "frames.gif", "frames.npz"),
        *("kernels.png", "kernels.npz", "receptive_field.png", "receptive_field.npz"),
    }
    assert "broken.gif is not an image that can be read" in message
    assert re.search("cannot read frames from .*broken.mp4", message)


def test_numbers_are_those_of_the_model(classifier, drawn):
    out, _ = drawn
    picture = np.load(out / "kernels.jpg.npz")
    names = {"maillot", "maillot, tank suit", "c", "d"}
    assert {name for name in picture if name.startswith("activation/")} == {f"activation/{name}" for name in names}
    frames = np.load(out / "frames.npz")
    assert set(frames) == {"frames", "stage2/block1/modulator", "stage2/block1/gates"}
    second = visualize.modulation_maps(classifier.model, normalize(jnp.asarray(frames["frames"][1:])))[1]
    np.testing.assert_array_equal(frames["stage2/block1/modulator"][1], second.modulator[0, 0])
    np.testing.assert_array_equal(frames["stage2/block1/gates"][1], second.gates[0, 0])
    kernels = np.load(out / "kernels.npz")
    assert sorted(kernels) == ["stage1/level1", "stage1/level2", "stage2/level1", "stage2/level2"]
    np.testing.assert_array_equal(kernels["stage2/level2"], visualize.focal_kernels(classifier.model)[1][1])
    fields = np.load(out / "receptive_field.npz")
    images = normalize(jnp.asarray(picture["picture"][None, :, 8:40]))  # the centre of 32x48
    np.testing.assert_array_equal(fields["stage2"], visualize.receptive_field(classifier.model, images, 1))


def test_figures_of_the_model_are_of_the_stage_and_block_chosen(drawn):
    out, _ = drawn
    assert list(np.load(out / "receptive_field.npz")) == ["stage2"]
    with Image.open(out / "kernels.png") as figure:
        assert figure.width > 1.5 * figure.height  # one row with two levels


def test_a_file_that_cannot_be_written_is_named_before_any_is(classifier, drawn, tmp_path):
    (tmp_path / "0.npz").mkdir()
    picture = drawn[0].parent / "frames" / "0.png"
    with pytest.raises(UserError, match=r"0\.npz is a folder; expected the path of a file"):
        draw(classifier, [picture], [], tmp_path, CHOSEN, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["0.npz"]


def test_a_picture_that_would_be_too_large_is_refused_by_its_name():
    with pytest.raises(UserError, match=r"line\.png is resized from 5000x1 to 1120000x224 .* give a smaller --size"):
        fit(np.zeros((1, 5000, 3), np.uint8), Preprocessing(), 8, "line.png")


def test_what_is_drawn_is_never_written_over(classifier, tmp_path):
    picture = tmp_path / "digit.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    (tmp_path / "frames").mkdir()
    picture_before = picture.read_bytes()
    for sources, out, message in (
        (([picture], []), tmp_path, r"digit\.png is a source and would be overwritten"),
        (([], [tmp_path / "frames"]), tmp_path / "frames", "a folder of frames to draw"),
    ):
        with pytest.raises(UserError, match=message):
            draw(classifier, *sources, out, CHOSEN, overwrite=True)
    assert picture.read_bytes() == picture_before


def test_an_animation_larger_than_a_gif_may_be_is_refused_and_the_others_are_drawn(classifier, tmp_path):
    (tmp_path / "wide").mkdir()
    Image.new("RGB", (14000, 32)).save(tmp_path / "wide" / "0.png")
    with pytest.raises(UserError, match=r"wide: its maps have \d+x\d+ pixels; a GIF has at most 65535 per side"):
        draw(classifier, [], [tmp_path / "wide"], tmp_path / "out", CHOSEN)


@pytest.mark.parametrize("shape", [(32, 3200), (3200, 32)])
def test_figures_of_lines_stay_figures_one_can_look_at(shape):
    maps = BlockMaps("stage 1, block 1 of 1", np.ones((8, 8)), np.ones((8, 8, 3)))
    with Image.open(io.BytesIO(as_png(picture_figure(np.zeros((*shape, 3), np.uint8), [maps])))) as figure:
        assert max(figure.size) < 12 * min(figure.size)


def test_names_of_classes_are_drawn_as_they_are_and_long_ones_shortened():
    picture, places = np.zeros((8, 8, 3), np.uint8), np.ones((4, 4))
    maps = BlockMaps("stage 1", places, np.ones((4, 4, 2)))
    shown = [Activation(name, 0.5, places) for name in (r"a$\frac$", "US$_and_A$", "n" * 300)]
    figure = picture_figure(picture, [maps], shown)
    titles = [axis.title for axis in figure.axes if "50.0%" in axis.get_title()]
    assert [title.get_text() for title in titles][:2] == [r"a$\frac$ 50.0%", "US$_and_A$ 50.0%"]
    assert not any(title.get_parse_math() for title in titles)
    assert len(titles[2].get_text()) < 70
    as_png(figure)
