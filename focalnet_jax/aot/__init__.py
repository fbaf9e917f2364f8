"""The steps of a run compiled for hardware that is not here: whether they fit, and what they would cost."""
