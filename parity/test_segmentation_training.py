"""A run of segmentation equals a run of mmsegmentation's model and loss with mmengine's optimizer, step by step."""

import numpy as np
import pytest

from parity.segmentation_training import Apart, ours, recipe, theirs

pytestmark = pytest.mark.filterwarnings("ignore")  # mmsegmentation's advice about its losses

# Rounding errors of float32 grow from step to step: losses of the first ten steps differ by 1.5e-7, of all 50 by 1e-5,
# the last weights by 6e-5, statistics by 8e-7, rates by 8e-8 (two runs). A wrong decay rule, warm-up, divisor or
# running variance gives far more.
FIRST_LOSSES, LOSS, WEIGHTS, STATISTICS, RATE = 1e-6, 1e-4, 3e-4, 1e-5, 1e-6
HARD = ["--config.head.ohem_kept=500", "--config.head.ohem_threshold=0.7"]


@pytest.mark.parametrize(
    "overrides",
    [[], ["--config.accumulate_steps=2", "--config.optimizer.weight_decay=2.0", *HARD]],
    ids=["recipe", "micro-batches, strong decay and OHEM"],
)
def test_fifty_steps_of_the_recipe_follow_mmsegmentation(overrides):
    config = recipe(*overrides)
    other = theirs(config)
    assert np.mean(other.losses[-5:]) < 0.95 * np.mean(other.losses[:5])
    apart = Apart.between(ours(config), other)
    assert apart.rate < RATE
    assert apart.first_losses < FIRST_LOSSES
    assert apart.loss < LOSS
    assert apart.auxiliary < LOSS
    assert apart.statistics < STATISTICS
    assert apart.weights < WEIGHTS


def test_the_comparison_sees_the_decay_of_the_heads_norms_and_of_biases():
    config = recipe("--config.optimizer.weight_decay=2.0")
    usual = recipe("--config.optimizer.weight_decay=2.0", "--config.optimizer.weight_decay_scales=()")
    assert Apart.between(ours(usual), theirs(config)).weights > 10 * WEIGHTS
