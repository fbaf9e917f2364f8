"""A run of each detector equals a run of mmdetection's detector and losses with mmengine's optimizer, step by step."""

import pytest

from parity.detection_training import HEADS, Apart, ours, recipe, theirs

pytestmark = pytest.mark.filterwarnings("ignore")

LOSS, WEIGHTS, STATISTICS, RATE = 1e-3, 1e-3, 1e-3, 1e-6
# So strong that 20 steps show which parameters are decayed.
DECAY = "--config.optimizer.weight_decay=20.0"


def assert_close(apart):
    assert apart.rate < RATE
    assert apart.loss < LOSS
    assert apart.terms < LOSS
    assert apart.statistics < STATISTICS
    assert apart.weights < WEIGHTS


@pytest.mark.parametrize("name", HEADS)
def test_twenty_steps_of_the_recipe_follow_mmdetection(name):
    mine, drawn = ours(recipe(name))
    assert_close(Apart.between(mine, theirs(recipe(name), drawn)))


def test_the_decayed_parameters_and_the_learning_rates_are_mmengines():
    config = recipe("atss", DECAY)
    mine, drawn = ours(config)
    assert_close(Apart.between(mine, theirs(config, drawn)))
    # The comparison can fail:
    assert Apart.between(mine, theirs(config, drawn, paramwise={})).weights > 10 * WEIGHTS
    faster = theirs(recipe("atss", DECAY, "--config.schedule.learning_rate=1.1e-4"), drawn)
    assert Apart.between(mine, faster).rate > 10 * RATE
    assert Apart.between(mine, faster).weights > WEIGHTS
