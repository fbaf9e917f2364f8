"""The panels of the page show what the model computes."""

from dataclasses import replace

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from focalnet_jax import visualize
from focalnet_jax.data.normalization import normalize
from focalnet_jax.data.preprocessing import Preprocessing
from focalnet_jax.demo.panels import Explanation, block_panels, explain, prediction_panels
from focalnet_jax.inference import Classifier
from focalnet_jax.tasks.predictor import Activation
from focalnet_jax.visualize.maps import StageMaps
from tests.models import drawn_model


@pytest.fixture(scope="module")
def classifier():
    model = drawn_model("focalnet_tiny_lrf", embed_dim=8, depths=(1, 2), num_classes=4)
    return Classifier(model, ("a, first", "b", "c", "d"), Preprocessing().at((32, 32)))


def test_classes_and_maps_are_those_of_predict_and_of_the_picture_it_is_given(classifier):
    china = load_sample_image("china.jpg")
    seen = explain(classifier, china, topk=3)
    best = classifier.predict([china], 3)[0]
    assert seen.prediction.scores() == {name.split(",")[0]: p for name, p in best}
    np.testing.assert_array_equal(seen.image, classifier.transform(china))
    images = normalize(jnp.asarray(seen.image[None]))
    for shown, expected in zip(seen.stages, visualize.modulation_maps(classifier.model, images), strict=True):
        np.testing.assert_array_equal(shown.modulator, expected.modulator)
        np.testing.assert_array_equal(shown.gates, expected.gates)
    logits = classifier.logits([china])[0]
    for each, (name, _) in zip(seen.activations, best, strict=True):
        label = classifier.labels.index(name)
        score = each.places.mean() + classifier.model.head.bias[label]
        np.testing.assert_allclose(score, logits[label], rtol=1e-5, atol=1e-6)


def test_a_prediction_without_activations_is_drawn(classifier):
    flower = load_sample_image("flower.jpg")
    seen = replace(explain(classifier, flower, topk=2), activations=())
    shown, drawn = prediction_panels(seen)
    assert drawn.meaning == seen.prediction.line()
    np.testing.assert_array_equal(drawn.pixels, seen.prediction.draw(shown.pixels))


def test_a_block_shows_its_modulator_and_every_gate_with_its_focal_window(classifier):
    seen = explain(classifier, load_sample_image("flower.jpg"), topk=9)
    assert len(seen.activations) == 4  # all classes
    panels = block_panels(seen, classifier.model.config, 1, 0)
    assert [(panel.name, panel.meaning) for panel in panels] == [
        ("modulator", "its strength at each of 4x4 positions"),
        ("gate, level 1", "context of 3x3 positions"),
        ("gate, level 2", "context of 7x7 positions"),
        ("gate, level 3", "context of 13x13 positions"),
        ("gate, global", "context of the whole image"),
    ]
    assert {panel.pixels.shape for panel in panels} == {(224, 224, 3)}  # 32 pixels, enlarged seven times
    assert panels[0].limits == (seen.stages[1].modulator[0].min(), seen.stages[1].modulator[0].max())


def test_gates_of_a_block_and_maps_of_the_classes_have_one_scale(classifier):
    gates = np.broadcast_to(np.float32([2, -1, 0, -2]), (1, 1, 2, 2, 4))
    classes = [Activation("a", 0.7, np.full((2, 2), 3.0)), Activation("b", 0.3, np.full((2, 2), 1.0))]
    seen = Explanation(np.zeros((32, 32, 3), np.uint8), None, classes, [StageMaps(np.ones((1, 1, 2, 2)), gates)])
    colours = [panel.pixels[0, 0] for panel in block_panels(seen, classifier.model.config, 0, 0)[1:]]
    expected = matplotlib.colormaps["coolwarm"]([1.0, 0.25, 0.5, 0.0])[:, :3] * 255
    np.testing.assert_array_equal(colours, expected.astype(np.uint8))
    picture, first, second = prediction_panels(seen)
    assert (picture.pixels == 0).all()
    assert first.limits == second.limits == (1.0, 3.0)
    assert first.pixels.mean() > 2 * second.pixels.mean()
