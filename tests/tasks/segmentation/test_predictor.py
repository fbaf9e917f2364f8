"""Segmentation models predict images of any size, and their predictions are printed, drawn and stored."""

import base64
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from focalnet_jax import predict
from focalnet_jax.convert.checkpoint_metadata import checkpoint_info
from focalnet_jax.convert.info import info_from_dict
from focalnet_jax.data.masks import IGNORED, MaskCoding, decode_mask
from focalnet_jax.data.palette import class_colours
from focalnet_jax.demo.panels import block_panels, explain, prediction_panels
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.inference import load_predictor
from focalnet_jax.programs import show
from focalnet_jax.report import __main__ as report
from focalnet_jax.tasks.segmentation.composites import DigitComposites
from focalnet_jax.tasks.segmentation.figures import comparison_figure
from focalnet_jax.tasks.segmentation.legend import Entry, draw_classes, legend_entries, with_legend
from focalnet_jax.tasks.segmentation.overlap import Overlap
from focalnet_jax.tasks.segmentation.shapes import Inference
from focalnet_jax.visualize import __main__ as visualize
from tests.commands import metrics
from tests.training.test_maps import records

COLOURS = np.uint8([[255, 0, 0], [0, 255, 0], [0, 0, 255]])


@pytest.fixture(scope="module")
def segmenter(segmented):
    return load_predictor(segmented)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Writes three validation images, two of them resized, as files; returns the paths by name."""
    folder, source = tmp_path_factory.mktemp("pictures"), DigitComposites("val")
    for index, (name, size) in enumerate({"square.png": (64, 64), "wide.png": (130, 97), "tiny.png": (1, 1)}.items()):
        Image.fromarray(source[index][0]).resize(size).save(folder / name)
    return {path.name: path for path in sorted(folder.iterdir())}


def test_the_classes_of_the_validation_images_are_those_of_the_evaluation(segmenter, segmented):
    hits = known = 0
    source = DigitComposites("val")
    for index in range(len(source)):
        image, mask = source[index]
        hits += np.count_nonzero(segmenter.classes(image) == mask)
        known += np.count_nonzero(mask != IGNORED)
    # The programs differ in batch size, so the classes of a few pixels may differ.
    assert 100 * hits / known == pytest.approx(metrics(segmented)[-1]["eval/aacc"], abs=0.01)


def test_lines_and_json_have_the_shares_and_masks_have_the_classes(segmenter, segmented, pictures, tmp_path, capsys):
    arguments = [*map(str, pictures.values()), "--checkpoint", str(segmented), "--topk", "2"]
    assert predict.main([*arguments, "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert predict.main([*arguments, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {path.name for path in (tmp_path / "masks").iterdir()} == set(pictures)
    for path, line, row in zip(pictures.values(), lines, rows, strict=True):
        classes = segmenter.classes(np.asarray(Image.open(path)))
        mask = Image.open(tmp_path / "masks" / path.name)
        assert (mask.mode, mask.size, row["size"]) == ("P", Image.open(path).size, list(classes.shape))
        np.testing.assert_array_equal(np.asarray(mask), classes)
        np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), segmenter.colours[classes])
        stored = (tmp_path / "masks" / path.name).read_bytes()
        np.testing.assert_array_equal(decode_mask(stored, MaskCoding(11)), classes)
        shares = {each["class"]: each["share"] for each in row["classes"]}
        assert shares == {int(each): pytest.approx((classes == each).mean()) for each in np.unique(classes)}
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
        assert all(each["label"] == DigitComposites.class_names[each["class"]] for each in row["classes"])
        parts = [f"{each['label']} {each['share']:.1%}" for each in row["classes"][:2]]
        assert line == f"{path}: {', '.join(parts + ([f'{len(shares) - 2} more'] if len(shares) > 2 else []))}"


def test_a_drawing_is_the_image_with_its_classes_above_a_legend(segmenter, pictures, segmented, tmp_path):
    predict.main([str(pictures["wide.png"]), "--checkpoint", str(segmented), "--out", str(tmp_path)])
    drawn, image = np.asarray(Image.open(tmp_path / "wide.png")), np.asarray(Image.open(pictures["wide.png"]))
    classes = segmenter.classes(image)
    expected = (image.astype(int) + segmenter.colours[classes]) / 2
    # Enlarged three times, so that a side has 240 pixels; each term is rounded down.
    np.testing.assert_allclose(drawn[1 : 3 * 97 : 3, 1::3], expected, atol=1)
    legend = drawn[3 * 97 :].reshape(-1, 3).tolist()
    assert all(segmenter.colours[each].tolist() in legend for each in np.unique(classes))


def test_a_mask_does_not_overwrite_a_source(segmented, pictures, tmp_path):
    (tmp_path / "masks").mkdir()
    source = tmp_path / "masks" / "wide.png"
    source.write_bytes(pictures["wide.png"].read_bytes())
    with pytest.raises(UserError, match=r"masks/wide\.png is a source and would be overwritten"):
        predict.main([str(source), "--checkpoint", str(segmented), "--out", str(tmp_path)])
    assert source.read_bytes() == pictures["wide.png"].read_bytes()


def test_a_class_list_gives_names_and_colours(segmented, pictures, tmp_path, capsys):
    listed = [f"thing{number} {number} {20 * number} 7" for number in range(11)]
    (tmp_path / "classes.txt").write_text("\n".join(listed))
    given = load_predictor(segmented, classes=tmp_path / "classes.txt")
    assert given.labels[3] == "thing3"
    assert given.colours[3].tolist() == [3, 60, 7]
    (tmp_path / "classes.txt").write_text("sky\nground\n")
    with pytest.raises(UserError, match="has 2 classes; expected 11, one for each output"):
        load_predictor(segmented, classes=tmp_path / "classes.txt")


@pytest.mark.parametrize(("size", "expected"), [(None, (64, 64)), (128, (128, 128)), ((32, 96), (32, 32))])
def test_images_are_resized_to_fit_into_the_box_of_the_evaluation_or_a_given_size(segmented, size, expected):
    segmenter = load_predictor(segmented, image_size=size)
    assert segmenter.transform(np.zeros((50, 50, 3), np.uint8)).shape[:2] == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "focalnet_base_lrf"}, "contains no released variant, not focalnet_base_lrf"),
        ({"which": "teacher"}, "has only the item params"),
        ({"options": {"use_postln": True}}, "use_postln=True was given, but the checkpoint has False"),
    ],
)
def test_what_differs_from_the_checkpoint_is_refused(segmented, given, message):
    with pytest.raises(UserError, match=message):
        load_predictor(segmented, **given)


def test_weights_that_are_nan_are_refused_when_predicting(segmented):
    segmenter = load_predictor(segmented)
    bias = segmenter.model.decode_head.conv_seg.bias
    bias[...] = bias[...] * np.nan
    with pytest.raises(RunFailedError, match="the logits are NaN or infinite"):
        segmenter.predictions([np.zeros((64, 64, 3), np.uint8)])


def test_many_threads_get_the_same_classes_as_one(segmenter):
    image = DigitComposites("val")[5][0]
    expected = segmenter.classes(image)
    with ThreadPoolExecutor(8) as threads:
        for each in threads.map(lambda _: segmenter.classes(image), range(24)):
            np.testing.assert_array_equal(each, expected)


def test_the_page_shows_the_drawing_and_the_maps_of_the_backbone(segmenter):
    seen = explain(segmenter, DigitComposites("val")[0][0], topk=3)
    image, drawn = prediction_panels(seen)
    assert drawn.wide
    np.testing.assert_array_equal(drawn.pixels, seen.prediction.draw(image.pixels))
    assert len(seen.prediction.scores()) == 3
    names = [panel.name for panel in block_panels(seen, segmenter.backbone.config, 1, 1)]
    assert names == ["modulator", "gate, level 1", "gate, level 2", "gate, global"]
    assert "0.0607 M parameters, 11 classes" in segmenter.description


def test_visualize_draws_the_backbone(segmented, pictures, tmp_path):
    arguments = ["--checkpoint", str(segmented), "--images", str(pictures["square.png"]), "--out", str(tmp_path)]
    assert visualize.main([*arguments, "--stage", "2"]) == 0
    assert len(Image.open(tmp_path / "square.png").convert("RGB").getcolors(2**24)) > 100
    assert np.load(tmp_path / "square.npz")["stage2/modulator"].shape == (2, 8, 8)


def test_a_run_shows_predictions_beside_the_ground_truth_in_tensorboard_and_in_its_report(segmented, tmp_path):
    (file,) = (segmented / "tensorboard").iterdir()
    shown = {
        (event.step, value.tag): value.image.encoded_image_string
        for event in map(Event.FromString, records(file.read_bytes()))
        for value in event.summary.value
        if value.HasField("image")
    }
    assert sorted(shown) == [(step, f"predictions/picture_{number}") for step in (3, 6) for number in (1, 2)]
    source = DigitComposites("val")
    drawn = [np.asarray(Image.open(io.BytesIO(shown[6, f"predictions/picture_{number}"]))) for number in (1, 2)]
    for index, figure in zip((0, 8), drawn, strict=True):  # spread over a batch of 16
        image, mask = source[index]
        enlarged, mask = (each.repeat(3, axis=0).repeat(3, axis=1) for each in (image, mask))  # to 160 pixels or more
        top = next(row for row in range(40) if (figure[row : row + 192, :192] == enlarged).all())  # below the titles
        true = figure[top : top + 192, -192:]
        np.testing.assert_array_equal(true[mask == 0], (enlarged[mask == 0] >> 1) + (np.uint8([242, 61, 61]) >> 1))
    sheet = np.asarray(Image.open(segmented / "predictions.png"))
    np.testing.assert_array_equal(sheet[: len(drawn[0]), : drawn[0].shape[1]], drawn[0])
    assert report.main([str(segmented), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    embedded = re.search(r'alt="predictions of segmented" src="data:image/png;base64,([^"]+)"', page)[1]
    assert base64.b64decode(embedded) == (segmented / "predictions.png").read_bytes()


def test_training_images_are_shown_beside_their_classes_in_figures_of_one_size(tmp_path):
    flags = ["--config", "configs/upernet_ade20k.py:smoke", "--images", "3", "--out", str(tmp_path / "sheet.png")]
    assert show.main(flags) == 0
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[1] > 2 * (2 * 192)  # two columns of an image beside its classes, both of 3 x 64 pixels


def test_ignored_pixels_are_striped_and_listed_last():
    mask = np.full((8, 8), IGNORED, np.uint8)
    mask[:4, :6] = 2
    drawn = draw_classes(np.full((8, 8, 3), 100, np.uint8), mask, COLOURS)
    assert (drawn[:4, :6] == [50, 50, 177]).all()
    striped = {tuple(each) for each in drawn[mask == IGNORED].tolist()}
    assert striped == {(100, 100, 100), (178, 178, 178)}
    assert legend_entries(mask, "abc", COLOURS) == [Entry("c  37.5%", (0, 0, 255)), Entry("ignored  62.5%", None)]


def test_a_legend_of_few_rows_counts_the_classes_that_it_leaves_out():
    image, entries = np.zeros((10, 300, 3), np.uint8), [Entry(str(number), (9, 9, 200)) for number in range(9)]
    whole, cut = with_legend(image, entries), with_legend(image, entries, rows=1)
    line = (len(whole) - len(cut)) / 4  # two columns fit: five rows, and one row

    def samples(drawn):
        return (drawn[10:] == [9, 9, 200]).all(axis=-1).sum()

    assert line == round(line) > 10
    assert samples(whole) == 9 * samples(cut)


def test_a_figure_of_a_mask_of_another_size_than_the_image_is_neither_small_nor_huge():
    mask = np.zeros((40, 60), np.uint8)
    mask[:, 30:] = 1
    predicted = np.repeat([[0, 1]], [45, 15], axis=1).astype(np.uint8).repeat(40, axis=0)
    for times, shape in ((1, (160, 240)), (50, (256, 384))):
        stretched = (each.repeat(times, axis=0).repeat(times, axis=1) for each in (predicted, mask))
        figure = comparison_figure(np.zeros((20, 30, 3), np.uint8), *stretched, "abc", COLOURS)
        assert figure.shape[1] == 3 * shape[1] + 2 * 4
        assert shape[0] < len(figure) < shape[0] + 80
        red = (figure[:, shape[1] :] == [127, 0, 0]).all(axis=-1).sum()
        assert red == shape[0] * shape[1] * (45 + 30) / 60  # predicted and true pixels of the first class
    strip = np.zeros((1, 9000), np.uint8)
    assert comparison_figure(np.zeros((1, 9000, 3), np.uint8), strip, strip, "abc", COLOURS).shape[1] == 3 * 384 + 2 * 4


def test_predictions_are_drawn_if_the_model_has_more_outputs_than_the_data_has_classes():
    source = SimpleNamespace(class_names=("sky", "road"), palette=COLOURS[:2])
    true, found = np.zeros((1, 64, 64), np.uint8), np.full((1, 64, 64), 3, np.uint8)
    batch = {"image": np.zeros((1, 64, 64, 3), np.uint8), "size": np.array([[64, 64]])}
    drawn = Overlap(source, 4, Inference()).draw(batch | {"classes": true, "predicted": found}, 0)
    colours = {tuple(each) for each in drawn.reshape(-1, 3).tolist()}
    assert {tuple((class_colours(4)[3] >> 1).tolist()), (127, 0, 0)} <= colours


def test_the_colours_and_the_size_of_images_are_read_from_a_run():
    config = {"data": {"image_size": 64}, "augment": {"box": [96, 64]}, "inference": {"box": None}}
    info = checkpoint_info({"config": config, "classes": ["sky", "road"], "palette": COLOURS[:2].tolist()})
    assert (info.palette, info.box) == (((255, 0, 0), (0, 255, 0)), (96, 64))
    assert checkpoint_info({"config": config | {"inference": {"box": [48, 32]}}}).box == (48, 32)
    assert info_from_dict(info.to_dict(), "") == info
