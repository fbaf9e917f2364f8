"""Mutated inputs of every kind that the package reads: each ends in a right value or in one line, never otherwise."""
