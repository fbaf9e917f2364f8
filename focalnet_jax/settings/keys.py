"""Defaults of config keys whose values may be None or of several types."""

from __future__ import annotations

from ml_collections import FieldReference


def number(value: float) -> FieldReference:
    """Returns `value` as the default of a key that takes numbers of the same type, or None."""
    return FieldReference(value, field_type=type(value))


def anything(value: object) -> FieldReference:
    """Returns `value` as the default of a key that takes any type, such as pixels per side or (height, width)."""
    return FieldReference(value, field_type=object)
