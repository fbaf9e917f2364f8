"""What lasts: saving and restoring a run, stopping it without loss."""
