"""The steps of a run compiled for hardware that is not here: whether they fit, and what they would cost."""

MOST_A_DEVICE = 4096
"""Examples that are looked for: a small model would fit with more than anyone trains with."""
