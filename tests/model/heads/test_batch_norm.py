"""BatchNorm has PyTorch's statistics, over the batch of all devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from focalnet_jax.distributed.mesh import make_mesh, put_batch
from focalnet_jax.errors import UserError
from focalnet_jax.model.heads.batch_norm import BatchNorm
from focalnet_jax.ops.compute import Compute

BATCH = np.random.default_rng(0).normal(2, 3, (8, 2, 1, 5)).astype(np.float32)
OLD_MEAN, OLD_VAR = np.arange(5, dtype=np.float32), np.linspace(0.5, 2, 5, dtype=np.float32)
SCALE, BIAS = np.linspace(1, 2, 5, dtype=np.float32), np.linspace(-1, 1, 5, dtype=np.float32)
# float32 sums of 16 numbers, in a different order on 8 devices
TOLERANCE = dict(rtol=1e-5, atol=1e-5)


def layer(dtype=jnp.float32):
    bn = BatchNorm(5, Compute(dtype, None), nnx.Rngs(0))
    for variable, value in zip((bn.mean, bn.var, bn.scale, bn.bias), (OLD_MEAN, OLD_VAR, SCALE, BIAS), strict=True):
        variable[...] = jnp.asarray(value)
    return bn


def normalized(x, mean, var):
    return (np.float64(x) - mean) / np.sqrt(var + 1e-5) * SCALE + BIAS


@pytest.mark.parametrize("devices", [1, 8])
def test_statistics_are_of_the_global_batch_with_the_unbiased_running_variance(devices):
    mesh = make_mesh({"data": devices, "fsdp": 1, "tensor": 1}, jax.devices()[:devices])
    graph, state = nnx.split(layer())

    @jax.jit
    def run(state, batch):
        bn = nnx.merge(graph, state)
        return bn(batch["x"], train=True), nnx.state(bn)

    found, after = run(state, put_batch({"x": BATCH}, mesh))
    values = np.float64(BATCH).reshape(-1, 5)
    np.testing.assert_allclose(found, normalized(BATCH, values.mean(0), values.var(0)), **TOLERANCE)
    np.testing.assert_allclose(after["mean"][...], 0.9 * OLD_MEAN + 0.1 * values.mean(0), **TOLERANCE)
    np.testing.assert_allclose(after["var"][...], 0.9 * OLD_VAR + 0.1 * values.var(0, ddof=1), **TOLERANCE)


@pytest.mark.parametrize("count", [1, 5, 8])
def test_unused_maps_do_not_count_in_the_statistics(count):
    used = np.random.default_rng(count).permutation(len(BATCH)) < count
    spoilt = np.where(used[:, None, None, None], BATCH, 1e4).astype(np.float32)
    bn, alone = layer(), layer()
    found, expected = bn(spoilt, train=True, used=jnp.asarray(used)), alone(BATCH[used], train=True)
    np.testing.assert_allclose(found[used], expected, **TOLERANCE)
    for mine, other in ((bn.mean, alone.mean), (bn.var, alone.var)):
        np.testing.assert_allclose(mine[...], other[...], **TOLERANCE)


def test_all_maps_count_if_none_is_used():
    bn, usual = layer(), layer()
    np.testing.assert_array_equal(bn(BATCH, train=True, used=jnp.zeros(8, bool)), usual(BATCH, train=True))
    np.testing.assert_allclose(bn.var[...], usual.var[...], **TOLERANCE)


def test_evaluation_normalizes_with_the_running_statistics_and_keeps_them():
    bn = layer()
    np.testing.assert_allclose(bn(BATCH, train=False), normalized(BATCH, OLD_MEAN, OLD_VAR), **TOLERANCE)
    np.testing.assert_array_equal(bn.mean[...], OLD_MEAN)
    np.testing.assert_array_equal(bn.var[...], OLD_VAR)


def test_only_the_call_decides_between_training_and_evaluation():
    bn, usual = layer(), layer()
    bn.eval()  # Flax's switch of all modules
    np.testing.assert_array_equal(bn(BATCH, train=True), usual(BATCH, train=True))
    bn.train()
    np.testing.assert_array_equal(bn(BATCH, train=False), usual(BATCH, train=False))


@pytest.mark.parametrize("train", [True, False])
def test_bfloat16_maps_have_float32_statistics(train):
    x = BATCH.astype(jnp.bfloat16)
    bn, exact = layer(jnp.bfloat16), layer()
    found, expected = bn(x, train=train), exact(x.astype(jnp.float32), train=train)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, expected.astype(jnp.bfloat16))
    np.testing.assert_array_equal(bn.mean[...], exact.mean[...])
    np.testing.assert_array_equal(bn.var[...], exact.var[...])
    assert bn.var[...].dtype == jnp.float32


def test_one_value_per_channel_is_refused_in_training_only():
    bn = layer()
    with pytest.raises(UserError, match=r"one value per channel in training \(input \(1, 1, 1, 5\)\).*2 images"):
        bn(BATCH[:1, :1], train=True)
    np.testing.assert_array_equal(bn.var[...], OLD_VAR)
    assert np.isfinite(bn(BATCH[:1, :1], train=False)).all()


def test_a_large_mean_does_not_spoil_the_variance():
    bn = layer()
    x = np.random.default_rng(0).normal(1000, 0.1, (64, 4, 4, 5)).astype(np.float32)
    found = bn(x, train=True)
    # float32 represents 1000.1 with a relative error of 6e-8, an absolute error of 6e-5 on a deviation of 0.1
    np.testing.assert_allclose(
        found, normalized(x, np.float64(x).mean((0, 1, 2)), np.float64(x).var((0, 1, 2))), atol=5e-3
    )
