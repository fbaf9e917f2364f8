"""Classifiers follow the user's options, and give every class a unique name."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from focalnet_jax import predict
from focalnet_jax.convert.write import write_weights
from focalnet_jax.data.normalization import normalize
from focalnet_jax.demo import __main__ as demo
from focalnet_jax.demo.panels import explain
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.inference import Classifier, load_classifier, load_predictor
from focalnet_jax.visualize import __main__ as visualize
from focalnet_jax.visualize.maps import receptive_field
from tests.convert.golden_files import GOLDEN, OPTIONS
from tests.convert.random_weights import weights_of
from tests.models import drawn_model

UNSTATED = GOLDEN / "timm_lrf.safetensors"  # does not contain normalize_modulator


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (predict.main, ["x.png", "--image-size"]),
        (demo.main, ["--image-size"]),
        (visualize.main, ["--images", "x.png", "--out", "out", "--size"]),
    ],
)
@pytest.mark.parametrize("size", ["0", "100000000"])
def test_an_invalid_image_size_is_refused_before_anything_is_read(main, arguments, size):
    with pytest.raises(UserError, match=f"size {size}: expected 1 to 4096"):
        main([*arguments, size, "--checkpoint", "nowhere"])


def test_what_weights_do_not_state_is_requested_and_used(tmp_path, capsys):
    with pytest.raises(UserError, match="give --option normalize_modulator=false, or true"):
        load_classifier(UNSTATED)
    assert load_classifier(UNSTATED, options={"normalize_modulator": True}).model.config.normalize_modulator
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    arguments = [str(tmp_path / "red.png"), "--checkpoint", str(UNSTATED), "--image-size", "64"]
    assert predict.main([*arguments, "--option", "normalize_modulator=false"]) == 0
    best = load_classifier(UNSTATED, image_size=64, options=OPTIONS["timm_lrf"]).predict(
        [np.uint8([[[255, 0, 0]]]).repeat(64, 0).repeat(64, 1)]
    )[0]
    assert capsys.readouterr().out.startswith(f"{arguments[0]}: {best[0][0]} {best[0][1]:.1%}, ")


def test_a_file_gives_the_class_names_of_the_outputs(tmp_path, capsys):
    names = ["ant", "bee", "cat", "dog", "emu"]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    arguments = [str(tmp_path / "red.png"), "--checkpoint", str(UNSTATED), "--image-size", "64", "--topk", "1"]
    arguments += ["--option", "normalize_modulator=false", "--classes", str(tmp_path / "classes.txt")]
    assert predict.main(arguments) == 0
    options = OPTIONS["timm_lrf"]
    picture = np.uint8([[[255, 0, 0]]]).repeat(64, 0).repeat(64, 1)
    best = load_classifier(UNSTATED, image_size=64, options=options).best([picture], 1)[0][0, 0]
    assert capsys.readouterr().out.startswith(f"{arguments[0]}: {names[best]} ")
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    with pytest.raises(UserError, match="has 2 classes; expected 5, one for each output"):
        load_classifier(UNSTATED, options=options, classes=tmp_path / "classes.txt")


def in_threads(call, times=48):
    """Returns the results of a call in 8 threads at the same time."""
    with ThreadPoolExecutor(8) as threads:
        return [each.result() for each in [threads.submit(call) for _ in range(times)]]


@pytest.fixture(scope="module")
def classifier():
    model = drawn_model("focalnet_tiny_srf", embed_dim=8, depths=(1, 1), num_classes=5)
    return Classifier(model, tuple("abcde"), 32, None)


PICTURE = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)


@pytest.mark.parametrize(
    "call",
    [
        lambda classifier: classifier.logits([PICTURE]),
        lambda classifier: explain(classifier, PICTURE, 2).stages[1].gates,
        lambda classifier: receptive_field(classifier.model, normalize(PICTURE[None])),
    ],
    ids=["logits", "the page's maps", "receptive field"],
)
def test_many_threads_get_the_same_results_as_one(classifier, call):
    expected = call(classifier)
    for each in in_threads(lambda: call(classifier)):
        np.testing.assert_array_equal(each, expected)


def test_classifiers_that_many_threads_load_are_alike():
    def load():
        return load_classifier(UNSTATED, image_size=64, options=OPTIONS["timm_lrf"]).logits([PICTURE])

    first, *others = in_threads(load, 8)
    for each in others:
        np.testing.assert_array_equal(each, first)


def test_predictions_follow_parameters_that_were_changed(classifier):
    before = classifier.logits([PICTURE])
    bias = classifier.model.head.bias
    bias[...] += 1
    np.testing.assert_allclose(classifier.logits([PICTURE]), before + 1, rtol=1e-6)


def test_weights_that_are_nan_are_refused_when_predicting(classifier):
    bias = classifier.model.head.bias
    before = bias[...]
    bias[...] = before * np.nan
    with pytest.raises(RunFailedError, match="the logits are NaN or infinite"):
        classifier.predict([PICTURE])
    bias[...] = before


def test_images_may_be_given_as_one_array(classifier):
    images = np.stack([PICTURE, PICTURE[::-1]])
    assert classifier.predictions(images) == classifier.predictions(list(images))
    assert classifier.predictions(images[:0]) == []


def test_an_empty_list_of_images_has_no_logits(classifier):
    assert classifier.logits([]).shape == (0, 5)
    assert classifier.predict([]) == []


def test_predictions_are_drawn_below_each_image_one_file_per_image(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("a/cat.png", "b/cat.png", "b/dog.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (50, 70, 3), np.uint8)).save(tmp_path / name)
    write_weights(weights_of(num_classes=5), tmp_path / "model", format="huggingface")
    given = [str(tmp_path / "a"), str(tmp_path / "b"), "--checkpoint", str(tmp_path / "model"), "--topk", "3"]
    assert predict.main([*given, "--out", str(tmp_path / "drawn")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a_cat.png", "b_cat.png", "b_dog.png"]
    drawn = np.asarray(Image.open(tmp_path / "drawn" / "a_cat.png"))
    image = np.asarray(Image.open(tmp_path / "a" / "cat.png"))
    np.testing.assert_array_equal(drawn[:50, 85:155], image)  # in the middle of a width of 240 pixels
    assert drawn.shape == (50 + 3 * 16 + 12, 240, 3)
    assert (drawn[50:] != 255).any(axis=(1, 2)).sum() > 30  # bars and names
    prediction = load_predictor(tmp_path / "model").predictions([image], topk=3)[0]
    assert lines[0] == f"{tmp_path / 'a' / 'cat.png'}: {prediction.line()}"
    assert [row["label"] for row in prediction.json()["classes"]] == list(prediction.labels)
    assert predict.main([*given, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[0])["classes"]
    # Images of one call are computed as a batch, which rounds differently from a single image.
    assert [row["probability"] for row in printed] == pytest.approx(prediction.probabilities, rel=1e-5)
    with pytest.raises(UserError, match="is a file; expected a folder"):
        predict.main([*given, "--out", str(tmp_path / "a" / "cat.png")])


@pytest.fixture(scope="module")
def five_classes(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model"
    write_weights(weights_of(num_classes=5), path, format="huggingface")
    return str(path)


def test_a_drawing_never_overwrites_an_image_to_predict(tmp_path):
    picture = tmp_path / "x.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    before = picture.read_bytes()
    with pytest.raises(UserError, match=r"x\.png is a source and would be overwritten: choose another --out"):
        predict.main([str(picture), "--checkpoint", "nowhere", "--out", str(tmp_path)])
    assert picture.read_bytes() == before


def test_every_image_has_a_drawing_of_its_own_and_every_argument_a_line(tmp_path, five_classes, capsys):
    names = ["a.png", "a.jpg", "a-2.png"]
    for name, colour in zip(names, ("red", "green", "blue"), strict=True):
        Image.new("RGB", (32, 32), colour).save(tmp_path / name)
    given = [str(tmp_path / name) for name in [*names, "a.png"]]
    assert predict.main([*given, "--checkpoint", five_classes, "--out", str(tmp_path / "drawn")]) == 0
    assert [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()] == given
    drawn = {tuple(np.asarray(Image.open(path))[16, 120] // 64) for path in (tmp_path / "drawn").iterdir()}
    assert drawn == {(3, 0, 0), (0, 2, 0), (0, 0, 3)}
