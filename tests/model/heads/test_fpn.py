"""FPN resizes and convolves maps of all sizes like PyTorch, and adds smaller maps."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from focalnet_jax.errors import UserError
from focalnet_jax.model.heads.convolutions import convolution, kaiming, xavier
from focalnet_jax.model.heads.fpn import FPN, doubled
from focalnet_jax.ops.compute import EXACT

SIZES = [(13, 17), (7, 9), (4, 5)]


@pytest.mark.parametrize("size", [(1, 2), (7, 10), (8, 9)], ids=str)
def test_doubled_takes_the_position_at_the_same_part_of_the_map(size):
    x = np.arange(2 * -(-size[0] // 2) * -(-size[1] // 2) * 3).reshape(2, -(-size[0] // 2), -(-size[1] // 2), 3)
    # as torch.nn.functional.interpolate documents "nearest"
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, x.shape[1:3], strict=True))
    np.testing.assert_array_equal(doubled(jnp.asarray(x), size), x[:, rows][:, :, columns])


def test_doubled_refuses_other_factors():
    with pytest.raises(ValueError, match="a map of 4x4 cannot be doubled to 9x8"):
        doubled(jnp.zeros((1, 4, 4, 1)), (9, 8))


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 2)], ids=str)
def test_a_strided_convolution_has_pytorchs_padding(size):
    layer = nnx.jit(lambda: convolution(2, 3, 3, init=xavier, compute=EXACT, rngs=nnx.Rngs(0), stride=2, bias=0.5))()
    x = np.random.default_rng(0).standard_normal((2, *size, 2), np.float32)
    padded, kernel = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), np.asarray(layer.kernel[...])
    height, width = (-(-side // 2) for side in size)
    expected = 0.5 + sum(
        padded[:, row : row + 2 * height - 1 : 2, column : column + 2 * width - 1 : 2] @ kernel[row, column]
        for row in range(3)
        for column in range(3)
    )
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


def make(extra, source):
    return FPN((6, 8, 10), 4, extra, source, compute=EXACT, rngs=nnx.Rngs(0))


def run(extra, source):
    """Returns the FPN, its inputs, and its results."""
    neck = nnx.jit(make, static_argnums=(0, 1))(extra, source)
    draw = np.random.default_rng(0)
    maps = [draw.standard_normal((2, *size, width), np.float32) for size, width in zip(SIZES, (6, 8, 10), strict=True)]
    return neck, maps, nnx.jit(lambda neck, maps: neck(maps))(neck, maps)


def test_pooled_maps_are_every_second_position():
    neck, _, found = run(2, "pool")
    assert [each.shape[1:3] for each in found] == [*SIZES, (2, 3), (1, 2)]
    assert len(neck.fpn_convs) == 3
    np.testing.assert_array_equal(found[3], found[2][:, ::2, ::2])
    np.testing.assert_array_equal(found[4], found[3][:, ::2, ::2])


@pytest.mark.parametrize("source", ["input", "output"])
def test_convolved_maps_start_from_the_last_input_or_output(source):
    neck, maps, found = run(2, source)
    assert [each.shape[1:3] for each in found] == [*SIZES, (2, 3), (1, 2)]
    first = maps[-1] if source == "input" else found[2]
    np.testing.assert_allclose(found[3], neck.fpn_convs[3](first), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[4], neck.fpn_convs[4](found[3]), rtol=1e-5, atol=1e-5)


def test_larger_maps_contain_the_smaller_ones():
    neck, maps, found = run(0, "pool")
    laterals = [block(x) for block, x in zip(neck.lateral_convs, maps, strict=True)]
    middle = laterals[1] + doubled(laterals[2], SIZES[1])
    largest = laterals[0] + doubled(middle, SIZES[0])
    for x, block, result in zip((largest, middle, laterals[2]), neck.fpn_convs, found, strict=True):
        np.testing.assert_allclose(result, block(x), rtol=1e-5, atol=1e-5)


def test_an_unknown_source_is_refused():
    with pytest.raises(UserError, match="source is 'lateral'; expected pool, input or output"):
        make(1, "lateral")


def test_convolutions_are_initialised_like_mmdetections():
    @nnx.jit
    def made():
        options = dict(compute=EXACT, rngs=nnx.Rngs(0))
        return convolution(64, 96, 3, init=xavier, **options), convolution(64, 96, 3, init=kaiming, **options)

    uniform, normal = made()
    # uniform in ±sqrt(6 / (fan in + fan out)), and sqrt(2 / fan out): 55,296 numbers, 2 % are 6 standard deviations
    bound = np.sqrt(6 / (9 * (64 + 96)))
    assert np.abs(uniform.kernel[...]).max() == pytest.approx(bound, rel=1e-3)
    assert np.std(uniform.kernel[...]) == pytest.approx(bound / np.sqrt(3), rel=0.02)
    assert np.std(normal.kernel[...]) == pytest.approx(np.sqrt(2 / (9 * 96)), rel=0.02)
    assert not np.any(uniform.bias[...])
