"""Compares this package with PyTorch; `make parity` runs the tests, `make parity-table` writes docs/parity.md."""
