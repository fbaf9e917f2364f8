"""A run of each detector equals a run of mmdetection's detector and losses with mmengine's optimizer, step by step."""

import numpy as np
import pytest

from parity.detection_training import HEADS, Apart, ours, recipe, theirs

pytestmark = pytest.mark.filterwarnings("ignore")

LOSS, WEIGHTS, STATISTICS, RATE = 1e-3, 1e-3, 1e-3, 1e-6


@pytest.mark.parametrize("name", HEADS)
def test_twenty_steps_of_the_recipe_follow_mmdetection(name):
    config = recipe(name)
    mine, drawn = ours(config)
    other = theirs(config, drawn)
    apart = Apart.between(mine, other)
    print(name, apart, other.losses)
    assert np.mean(other.losses[-5:]) < np.mean(other.losses[:5])
    assert apart.rate < RATE
    assert apart.loss < LOSS
    assert apart.terms < LOSS
    assert apart.statistics < STATISTICS
    assert apart.weights < WEIGHTS
