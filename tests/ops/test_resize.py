"""Resizing and pooling of maps follow the definitions of PyTorch's functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from focalnet_jax.ops.resize import adaptive_mean, bilinear, by_axis


def maps(height, width):
    return np.random.default_rng(0).normal(3, 1, (2, height, width, 3)).astype(np.float32)


def lines(x, count):
    """Interpolates `[n, ...]` to `[count, ...]` in float64: positions (i + 0.5) n / count - 0.5, limited to the map."""
    length = len(x)
    out = []
    for index in range(count):
        place = min(max((index + 0.5) * length / count - 0.5, 0), length - 1)
        low = int(place)
        out.append(x[low] + (place - low) * (x[min(low + 1, length - 1)] - x[low]))
    return np.array(out)


@pytest.mark.parametrize("size", [(8, 10), (4, 5), (7, 3), (1, 13), (9, 9)], ids=str)
def test_bilinear_interpolates_at_the_centres_of_pixels(size):
    x = maps(4, 5)
    rows = lines(np.float64(x).transpose(1, 0, 2, 3), size[0]).transpose(1, 0, 2, 3)
    expected = lines(rows.transpose(2, 0, 1, 3), size[1]).transpose(1, 2, 0, 3)
    # float32 weights: positions are rounded
    np.testing.assert_allclose(bilinear(x, size), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [(8, 10), (4, 5), (7, 3), (1, 13), (4, 9)], ids=str)
@pytest.mark.parametrize("resize", [bilinear, by_axis])
def test_implementations_and_their_gradients_equal_those_of_jax_image_resize(resize, size):
    x, cotangent = maps(4, 5), maps(*size)
    expected, expected_gradient = jax.vjp(lambda x: jax.image.resize(x, cotangent.shape, "linear", antialias=False), x)
    found, gradient = jax.vjp(lambda x: resize(x, size), x)
    # JAX computes its weights in float32 and divides them by their sum; gradients are sums of up to 40 numbers
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient(cotangent)[0], expected_gradient(cotangent)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(5, 7), (6, 6), (3, 2), (1, 1), (13, 16)], ids=str)
@pytest.mark.parametrize("windows", [1, 2, 3, 6])
def test_pooling_windows_cover_the_map_and_overlap(size, windows):
    x = maps(*size)

    def window(length, index):
        return slice(int(np.floor(index * length / windows)), int(np.ceil((index + 1) * length / windows)))

    expected = [
        [np.float64(x[:, window(size[0], row), window(size[1], column)]).mean(axis=(1, 2)) for column in range(windows)]
        for row in range(windows)
    ]
    # float32 sums of up to 208 numbers
    np.testing.assert_allclose(adaptive_mean(x, windows), np.moveaxis(expected, 2, 0), rtol=1e-5)


def test_bfloat16_maps_are_averaged_in_float32():
    x = maps(13, 16).astype(jnp.bfloat16)
    found = adaptive_mean(x, 1)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found[:, 0, 0], np.float64(x).mean(axis=(1, 2)), rtol=1e-5)
    assert bilinear(x, (20, 20)).dtype == jnp.bfloat16
