"""The sweep: trains a recipe with all combinations of given settings."""
