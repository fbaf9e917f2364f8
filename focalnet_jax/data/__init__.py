"""From files to batches: sources, decoding and augmentation on the host, the loader."""
