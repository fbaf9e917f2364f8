"""Compares names of classes as words: normalized names, and ImageNet's classes by their lemmas."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache

from focalnet_jax.data.class_lists import class_list

_SEPARATORS = re.compile(r"[\s_\-'’.]+")


def find_by_words(find: Callable[[str], Sequence | None], name: str) -> list:
    """Returns the matches of a class name or, if it has none, of its lemmas, which are separated by commas.

    The matches of the lemmas are those that all lemmas have in common or, if there are none, those of any lemma.
    Lemmas without matches are ignored.

    Args:
      find: function that returns the matches of a normalized name.
      name: the class name.
    """
    if whole := find(_plain(name)):
        return list(whole)
    found = [set(each) for lemma in name.split(",") if (each := find(_plain(lemma)))]
    return sorted(set.intersection(*found) or set.union(*found), key=str) if found else []


def _plain(text: str) -> str:
    """Normalizes a name: lower case, without separators except in numbers."""
    return _SEPARATORS.sub(_without_separator, unicodedata.normalize("NFKC", text).casefold())


def _without_separator(found: re.Match[str]) -> str:
    """Returns the replacement of a separator.

    It is an empty string, unless that would change a number: 1.5 is not 15, and -5 is not 5.
    """
    before, after = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    if not after.isdecimal() or (before and not before.isdecimal()):
        return ""
    if "." in found[0]:
        return "."
    return " " if before else "-" if "-" in found[0] else ""


def keys_of(name: str) -> set[str]:
    """Returns a name and its lemmas, normalized."""
    return {_plain(part) for part in (name, *name.split(","))} - {""}


@cache
def lemmas_by_synset(count: int) -> dict[str, str]:
    """Returns lemmas by synset id, for the ImageNet list with `count` classes.

    All lemmas of a class are in one string.
    """
    return dict(class_list(count))


@cache
def synsets_by_lemma(count: int) -> dict[str, list[str]]:
    """Returns synset ids by normalized lemma, for the ImageNet list with `count` classes.

    All lemmas of a class in one string are also a key.
    """
    found = defaultdict(list)
    for synset, words in class_list(count):
        for key in keys_of(words):
            found[key].append(synset)
    return found
