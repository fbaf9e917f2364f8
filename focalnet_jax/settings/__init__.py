"""What values the keys of a config may have. Loads no JAX."""
