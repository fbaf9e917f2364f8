"""The context aggregation for TPUs in two Pallas kernels: all focal levels in one pass, and their gradients in another.

A program takes 8 examples and 128 channels, the sublanes and lanes of a vector register, or 16 examples in pairs where
a chip computes in bfloat16: a shift along H or W only changes an address and moves no data. The program visits blocks
of rows from top to bottom. Each level lags behind the previous level by the blocks that its windows reach into: one
block, if enough rows fit fast memory. Fast memory holds the last rows of each level; a map that fits is one block.
The backward pass visits the levels in reverse order. GELU's inputs are kept for it; all else is computed again.
"""

from focalnet_jax.ops.mosaic.backward import focal_level_gradients
from focalnet_jax.ops.mosaic.forward import focal_levels
from focalnet_jax.ops.mosaic.plan import fast_memory, supports

__all__ = ["fast_memory", "focal_level_gradients", "focal_levels", "supports"]
