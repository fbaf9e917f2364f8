"""Fuzzing of every kind of input that the package reads: each must give the right value or a one-line error."""
