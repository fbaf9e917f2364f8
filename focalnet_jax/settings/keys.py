"""Defaults of config keys whose values may be None or of several types."""

from __future__ import annotations

from ml_collections import FieldReference


def number(value: float) -> FieldReference:
    """Returns the default of a key whose value is a number or None."""
    return FieldReference(value, field_type=type(value))


def anything(value: object) -> FieldReference:
    """Returns the default of a key whose value may have any type, such as pixels per side or (height, width)."""
    return FieldReference(value, field_type=object)
