"""The context aggregation for TPUs in two Pallas kernels: all focal levels in one pass, and their gradients in another.

A program takes 8 examples and 128 channels, the sublanes and lanes of a vector register, or 16 examples in pairs where
a chip computes in bfloat16: a shift along H or W is another address and moves nothing. It goes down the rows in blocks.
Each level is behind the one before it by the blocks that its windows reach into, one where blocks of enough rows fit
fast memory. The last rows of each level are held there; a map that fits whole is one block. The backward pass goes from
the last level to the first in the same way. GELU's inputs are kept for it; all else is computed again.
"""

from focalnet_jax.ops.mosaic.backward import focal_level_gradients
from focalnet_jax.ops.mosaic.forward import focal_levels
from focalnet_jax.ops.mosaic.plan import fast_memory, supports

__all__ = ["fast_memory", "focal_level_gradients", "focal_levels", "supports"]
