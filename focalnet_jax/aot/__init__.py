"""Compiles train and eval steps for absent hardware, and reports the compiler's estimates of memory and time."""

MAX_BATCH_PER_DEVICE = 4096
"""Largest batch per device that a search tries. Small models fit with even larger batches, which are not useful."""
