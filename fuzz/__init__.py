"""Fuzzes every kind of input that the package reads. Each input must give the right value or a one-line error."""
