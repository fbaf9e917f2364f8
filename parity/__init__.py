"""Live comparison with PyTorch: `make parity` runs it, `python -m parity.report` makes the table in docs/parity.md."""
