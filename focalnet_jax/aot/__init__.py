"""Ahead-of-time compilation of the steps of a run for absent hardware: memory, and the compiler's cost estimate."""

MAX_BATCH_PER_DEVICE = 4096
"""Largest batch per device that a search tries: small models fit with more than is useful."""
