"""Checkpoints: saving, resuming and stopping a run without loss."""
