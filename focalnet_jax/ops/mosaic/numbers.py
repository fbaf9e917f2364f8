"""Layouts of a register of 128 channels (float32, or pairs of bfloat16), and sums of products of registers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

EXAMPLES, CHANNELS = 8, 128  # in a register of float32
Factors = Sequence[tuple[jax.Array, jax.Array]]  # pairs of registers to be multiplied
_ROUNDED_KERNEL = 7  # size of the smallest kernel whose products are rounded to bfloat16
_rounded = partial(jax.lax.reduce_precision, exponent_bits=8, mantissa_bits=7)  # to bfloat16


class Floats:
    """A register of 8 examples in float32."""

    examples = EXAMPLES
    register = jax.ShapeDtypeStruct((EXAMPLES, CHANNELS), jnp.float32)

    def pack(self, x: jax.Array) -> jax.Array:
        """Converts `[8, 128]` float32 to a register."""
        return x

    def unpack(self, register: jax.Array) -> jax.Array:
        """Converts a register to `[8, 128]` float32."""
        return register

    def add_products(self, total: jax.Array, factors: Factors, k: int) -> jax.Array:
        """Returns `total`, `[8, 128]` float32, plus the products of the factors, which are added one after the other.

        The kernel size `k` is not used here: it matters only for `Pairs`.
        """
        del k
        for one, other in factors:
            total += one * other
        return total

    def add_sum(self, total: jax.Array, factors: Factors, k: int) -> jax.Array:
        """Returns `total` plus the sum of the products, which is added at once.

        This loses fewer digits than `add_products` if `total` is large compared with each product.
        """
        del k
        products = [one * other for one, other in factors]
        return total + sum(products[1:], products[0])


class Pairs:
    """A register of 16 examples in bfloat16, which pairs each of the first 8 with one of the last 8.

    A v6e multiplies 16 examples at once, and adds the products to float32 sums as fast as it adds float32 numbers. Only
    the products of the largest kernels are rounded to bfloat16: if all products were rounded, results would be less
    accurate than XLA's results (docs/performance.md).

    Args:
      interpret: whether the kernel is interpreted, on platforms that cannot pack pairs. Registers are then
        `[16, 128]` float32, rounded to bfloat16.
    """

    examples = 2 * EXAMPLES

    def __init__(self, interpret: bool):
        self._interpret = interpret
        rounded = jax.ShapeDtypeStruct((self.examples, CHANNELS), jnp.float32)
        self.register = rounded if interpret else jax.ShapeDtypeStruct((EXAMPLES, CHANNELS), jnp.uint32)

    def pack(self, x: jax.Array) -> jax.Array:
        """Converts `[16, 128]` float32 to a register."""
        if self._interpret:
            return _rounded(x)
        return pltpu.pack_elementwise([x[:EXAMPLES], x[EXAMPLES:]], packed_dtype=jnp.bfloat16)

    def unpack(self, register: jax.Array) -> jax.Array:
        """Converts a register to `[16, 128]` float32."""
        if self._interpret:
            return register
        half = partial(pltpu.unpack_elementwise, packed_dtype=jnp.bfloat16, unpacked_dtype=jnp.float32)
        return jnp.concatenate([half(register, index=0), half(register, index=1)])

    def add_products(self, total: jax.Array, factors: Factors, k: int) -> jax.Array:
        """Returns `total`, `[16, 128]` float32, plus the products of the factors, which are added one after the other.

        The kernel size `k` decides whether the products are rounded to bfloat16.
        """
        for one, other in factors:
            total += self._product(one, other) if k >= _ROUNDED_KERNEL else self.unpack(one) * self.unpack(other)
        return total

    add_sum = add_products

    def _product(self, one: jax.Array, other: jax.Array) -> jax.Array:
        if self._interpret:
            return _rounded(one * other)
        return self.unpack(pltpu.bitcast(_bfloat16(one) * _bfloat16(other), jnp.uint32))


def _bfloat16(register: jax.Array) -> jax.Array:
    return pltpu.bitcast(register, jnp.bfloat16)
