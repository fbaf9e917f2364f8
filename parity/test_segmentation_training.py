"""A run of segmentation equals a run of mmsegmentation's model and loss with mmengine's optimizer, step by step."""

import numpy as np
import pytest

from parity.segmentation_training import Apart, ours, recipe, theirs

pytestmark = pytest.mark.filterwarnings("ignore")  # mmsegmentation's advice about its losses

# Measured: losses 6e-7, weights and statistics 1e-6, rates 1e-7: the rounding of float32 in 50 updates. A wrong
# decay rule, warm-up, divisor or running variance gives far more.
LOSS, WEIGHTS, STATISTICS, RATE = 1e-5, 1e-4, 1e-5, 1e-6
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
    assert apart.loss < LOSS
    assert apart.auxiliary < LOSS
    assert apart.statistics < STATISTICS
    assert apart.weights < WEIGHTS


def test_the_comparison_sees_the_decay_of_the_heads_norms_and_of_biases():
    config = recipe("--config.optimizer.weight_decay=2.0")
    usual = recipe("--config.optimizer.weight_decay=2.0", "--config.optimizer.weight_decay_scales=()")
    assert Apart.between(ours(usual), theirs(config)).weights > 10 * WEIGHTS
