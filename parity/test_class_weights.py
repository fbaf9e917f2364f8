"""The loss with class weights equals torch's weighted cross-entropy."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from focalnet_jax.tasks.classification.weights import weigh

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(16, 7)).astype(np.float32)
WEIGHTS = RNG.uniform(0.1, 5, 7).astype(np.float32)
LABELS = RNG.integers(0, 7, 16)


def ours(targets, smoothing):
    weighed = weigh(jnp.asarray(targets, jnp.float32), jnp.asarray(WEIGHTS), smoothing)
    return float(optax.softmax_cross_entropy(jnp.asarray(LOGITS), weighed).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_of_class_indices_the_weighted_mean_is_torchs(smoothing):
    loss = torch.nn.CrossEntropyLoss(weight=torch.tensor(WEIGHTS), label_smoothing=smoothing)
    expected = loss(torch.tensor(LOGITS), torch.tensor(LABELS)).item()
    assert ours(np.eye(7)[LABELS] * (1 - smoothing) + smoothing / 7, smoothing) == pytest.approx(expected, rel=1e-5)


def test_of_soft_targets_it_is_torchs_sum_over_the_weights_of_the_examples():
    # For soft targets, torch's mean divides by the number of examples, ours by the sum of their weights.
    share = RNG.uniform(size=(16, 1))
    soft = share * np.eye(7)[LABELS] + (1 - share) * np.eye(7)[LABELS[::-1]]
    loss = torch.nn.CrossEntropyLoss(weight=torch.tensor(WEIGHTS), reduction="sum")
    expected = loss(torch.tensor(LOGITS), torch.tensor(soft, dtype=torch.float32)).item() / (soft @ WEIGHTS).sum()
    assert ours(soft, 0.0) == pytest.approx(expected, rel=1e-5)
