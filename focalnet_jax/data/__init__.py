"""The input pipeline: sources, decoding and augmentation on the host, and the loader of batches."""
