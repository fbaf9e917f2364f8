"""The context aggregation for TPUs in two Pallas kernels: one computes all focal levels, the other their gradients.

A kernel instance computes 8 examples and 128 channels, which are the sublanes and lanes of a vector register, or 16
examples in pairs on chips that compute in bfloat16. A shift along H or W therefore changes only an address and moves no
data.

The instances along the last axis of the grid are steps, which compute the map in blocks of rows from top to bottom. In
one step, each level computes a different block: windows reach into the blocks below, so a level is some blocks behind
the previous level (one block if enough rows fit in fast memory, VMEM). Fast memory stores only the last rows of each
level. If the whole map fits, it is one block.

The backward pass visits the levels in reverse order. Besides its arguments, the forward pass keeps only the inputs
of GELU for it.
"""

from focalnet_jax.ops.mosaic.backward import focal_level_gradients
from focalnet_jax.ops.mosaic.forward import focal_levels
from focalnet_jax.ops.mosaic.plan import fast_memory, supports

__all__ = ["fast_memory", "focal_level_gradients", "focal_levels", "supports"]
