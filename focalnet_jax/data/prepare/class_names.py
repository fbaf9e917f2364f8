"""Checks class names before they are stored in the metadata of a data set."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from focalnet_jax.data.prepare.index import Index
from focalnet_jax.errors import UserError


def refuse_unstorable(classes: Sequence[str], indices: Sequence[Index]) -> None:
    """Raises `UserError` if a class name cannot be stored unchanged, or if two names differ only in Unicode form.

    TFDS stores one name per line, strips white space and drops empty names, which would shift the labels of later
    classes.
    """
    for name in classes:
        if len(name.splitlines()) != 1 or name != name.strip():
            raise UserError(
                f"class name {name!r} cannot be stored, because it is empty, contains a line break, or begins or ends "
                "with white space: rename it"
            )
    seen = dict.fromkeys(classes)
    for index in indices:
        seen |= dict.fromkeys(sorted(index.class_names()))
    forms: dict[str, str] = {}
    for name in seen:
        other = forms.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise UserError(
                f"class names {other!a} and {name!a} differ only in their Unicode form (macOS writes NFD, "
                "others NFC): rename one of them"
            )
