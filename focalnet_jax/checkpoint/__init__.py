"""Checkpoints: saving and resuming a run, stopping it without loss."""
