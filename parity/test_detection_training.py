"""A run of Mask R-CNN equals a run of mmdetection's detector and losses with mmengine's optimizer, step by step."""

import pytest

from parity.detection_training import Apart, ours, recipe, theirs

pytestmark = pytest.mark.filterwarnings("ignore")

LOSS, WEIGHTS, STATISTICS, RATE = 1e-3, 1e-3, 1e-3, 1e-6


def assert_close(apart):
    assert apart.rate < RATE
    assert apart.loss < LOSS
    assert apart.terms < LOSS
    assert apart.statistics < STATISTICS
    assert apart.weights < WEIGHTS


@pytest.mark.parametrize("name", ["mask_rcnn"])
def test_twenty_steps_of_the_recipe_follow_mmdetection(name):
    mine, drawn = ours(recipe(name))
    assert_close(Apart.between(mine, theirs(recipe(name), drawn)))
