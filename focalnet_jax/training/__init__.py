"""Training: state, update step, loop, evaluation, resuming and logging."""
