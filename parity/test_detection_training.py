"""A run of each detector equals a run of mmdetection's detector and losses with mmengine's optimizer, step by step."""

from functools import cache

import numpy as np
import pytest

from parity.detection_training import HEADS, Apart, ours, recipe, theirs

pytestmark = pytest.mark.filterwarnings("ignore")

LOSS, WEIGHTS, STATISTICS, RATE = 1e-3, 1e-3, 1e-3, 1e-6
DECAY = "--config.optimizer.weight_decay=2.0"


@cache
def ours_of(name):
    return ours(recipe(name))


@pytest.mark.parametrize("name", HEADS)
def test_twenty_steps_of_the_recipe_follow_mmdetection(name):
    mine, drawn = ours_of(name)
    other = theirs(recipe(name), drawn)
    assert np.mean(other.losses[-5:]) < np.mean(other.losses[:5])
    apart = Apart.between(mine, other)
    assert apart.rate < RATE
    assert apart.loss < LOSS
    assert apart.terms < LOSS
    assert apart.statistics < STATISTICS
    assert apart.weights < WEIGHTS


def test_the_comparison_sees_the_rule_of_the_decay_and_the_learning_rate():
    mine, drawn = ours_of("sparse_rcnn")
    assert Apart.between(mine, theirs(recipe("sparse_rcnn", DECAY), drawn)).weights > 10 * WEIGHTS
    faster = theirs(recipe("sparse_rcnn", "--config.schedule.learning_rate=1e-4"), drawn)
    apart = Apart.between(mine, faster)
    assert apart.rate > 10 * RATE
    assert apart.loss > 2 * LOSS
