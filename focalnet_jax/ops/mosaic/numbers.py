"""Layout of 128 channels in a register, as float32 or pairs of bfloat16, and sums of their products."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu

EXAMPLES, CHANNELS = 8, 128  # of a register of float32
Factors = Sequence[tuple[jax.Array, jax.Array]]  # registers
_ROUNDED_KERNEL = 7
_rounded = partial(jax.lax.reduce_precision, exponent_bits=8, mantissa_bits=7)  # to bfloat16


class Floats:
    """8 examples, float32."""

    examples = EXAMPLES
    register = jax.ShapeDtypeStruct((EXAMPLES, CHANNELS), jnp.float32)

    def pack(self, x: jax.Array) -> jax.Array:
        """Returns a register from `[8, 128]` float32."""
        return x

    def unpack(self, register: jax.Array) -> jax.Array:
        """Returns `[8, 128]` float32 from a register."""
        return register

    def add_products(self, total: jax.Array, factors: Factors, k: int) -> jax.Array:
        """Adds products of a kernel of size k to `total`, `[8, 128]` float32, one after the other."""
        del k  # all of them are exact
        for one, other in factors:
            total += one * other
        return total

    def add_sum(self, total: jax.Array, factors: Factors, k: int) -> jax.Array:
        """Adds the sum of the products to `total`; for a total that is large compared with each product."""
        del k
        products = [one * other for one, other in factors]
        return total + sum(products[1:], products[0])


class Pairs:
    """16 examples in bfloat16; pairs one of the first 8 with one of the last 8.

    A v6e multiplies 16 of them at once, and adds them to float32 sums as fast as it adds float32. Only the products of
    the largest kernels are rounded to bfloat16; with all products rounded, results would be further from the exact ones
    than XLA's (docs/performance.md). `interpret` is for platforms that cannot pack pairs: values are rounded to nearest
    instead.
    """

    examples = 2 * EXAMPLES

    def __init__(self, interpret: bool):
        self._interpret = interpret
        rounded = jax.ShapeDtypeStruct((self.examples, CHANNELS), jnp.float32)
        self.register = rounded if interpret else jax.ShapeDtypeStruct((EXAMPLES, CHANNELS), jnp.uint32)

    def pack(self, x: jax.Array) -> jax.Array:
        """Returns a register from `[16, 128]` float32."""
        if self._interpret:
            return _rounded(x)
        return pltpu.pack_elementwise([x[:EXAMPLES], x[EXAMPLES:]], packed_dtype=jnp.bfloat16)

    def unpack(self, register: jax.Array) -> jax.Array:
        """Returns `[16, 128]` float32 from a register."""
        if self._interpret:
            return register
        half = partial(pltpu.unpack_elementwise, packed_dtype=jnp.bfloat16, unpacked_dtype=jnp.float32)
        return jnp.concatenate([half(register, index=0), half(register, index=1)])

    def add_products(self, total: jax.Array, factors: Factors, k: int) -> jax.Array:
        """Adds products of a kernel of size k to `total`, `[16, 128]` float32, one after the other."""
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
