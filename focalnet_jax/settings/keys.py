"""Defaults of config keys whose values may be None or of several types."""

from __future__ import annotations

from ml_collections import FieldReference


def number(value: float) -> FieldReference:
    """Makes `value` the default of a key that takes numbers of the same type, or None."""
    return FieldReference(value, field_type=type(value))


def anything(value: object) -> FieldReference:
    """Makes `value` the default of a key that takes values of any type, such as pixels per side or (height, width)."""
    return FieldReference(value, field_type=object)
