"""Which output of a classifier each class of a data set is.

A data set and a classifier that do not come from one run name their classes in their own ways: by synset ids, by
numbers, by words. `match_classes` finds the output of every class of the data, and `Relabelled` is the data set with
these outputs as labels. Nothing is matched by its position.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from focalnet_jax.data.class_lists import NUM_1K, NUM_22K, class_list, synset_of
from focalnet_jax.data.decode import Picture
from focalnet_jax.data.sources import Label, Source, are_numbers
from focalnet_jax.errors import UserError

HOW_TO_SAY = (
    "--config.data.classes=FILE says what the classifier's outputs are called, one class per line in their order"
)
_SEPARATORS = re.compile(r"[\s_\-'’.]+")
_IN_PLACE = 0.9  # words of ImageNet differ a little from source to source; another order leaves next to none in place
_SHOWN = 5


@dataclass(frozen=True)
class Classes:
    """What the outputs of a classifier are called, in their order.

    Attributes:
      names: one for each output, or for the first ones where the others are unused.
      origin: where the names are known from, in words.
      exact: whether these are names of a data set that was trained on, rather than words for people.
    """

    names: tuple[str, ...]
    origin: str
    exact: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def first(self, count: int | None) -> Classes:
        """The first `count` classes, or all."""
        return self if count is None else replace(self, names=self.names[:count])

    @cached_property
    def synsets(self) -> tuple[str | None, ...]:
        """The ImageNet class of each output where its name, or the order of all names, tells it."""
        listed = class_list(len(self.names))
        if listed:
            pairs = list(zip(self.names, listed, strict=True))
            same = sum(synset_of(name) == synset or bool(_keys(name) & _keys(words)) for name, (synset, words) in pairs)
            if same >= _IN_PLACE * len(listed):
                return tuple(synset_of(name) or synset for name, (synset, _) in pairs)
        named = [[synset] if (synset := synset_of(name)) else _common(_lemmas(NUM_1K).get, name) for name in self.names]
        return tuple(left[0] if len(left) == 1 else None for left in _eliminate(named))


@dataclass(frozen=True)
class Matching:
    """The outputs of a data set's classes.

    Attributes:
      outputs: `[classes of the data]` int32; -1 for a class without examples that the classifier lacks.
      how: what they were matched by, in words; empty where both have the same names in the same order.
    """

    outputs: np.ndarray
    how: str


def classes_of(outputs: int, stated: Sequence[str] | None, origin: str, *, exact: bool = False) -> Classes | None:
    """What a classifier's outputs are called; None where nothing tells.

    Args:
      outputs: how many it has.
      stated: names that a file or a run gives; None if it gives none, empty for a classifier that was never trained.
      origin: who states them.
      exact: see `Classes`.
    """
    if stated is None and class_list(outputs):
        title = {NUM_1K: "ImageNet-1K", NUM_22K: "ImageNet-22K"}[outputs]
        return Classes(tuple(synset for synset, _ in class_list(outputs)), f"the list of {title}")
    return Classes(tuple(stated), origin, exact) if stated else None


def match_classes(
    names: Sequence[str],
    classes: Classes | None,
    *,
    outputs: int,
    data: str,
    classifier: str,
    numbers: bool = True,
    present: Iterable[int] | None = None,
    hint: str = HOW_TO_SAY,
) -> Matching:
    """Finds the output of each of a data set's classes.

    Names that are the same are the same class. Otherwise numbers are numbers of outputs, synset ids are ImageNet's, and
    words are compared with the outputs' names and lemmas without case, spaces, hyphens and underscores.

    Args:
      names: what the data calls its classes.
      classes: what the classifier calls its outputs, if that is known.
      outputs: how many the classifier has.
      data: the data set, for messages.
      classifier: the classifier, for messages.
      numbers: whether classes that are numbers mean outputs by their number.
      present: the classes that have examples, if only those must be found; all by default.
      hint: what to do where classes cannot be matched, as a sentence.

    Raises:
      UserError: a class is not among the classifier's, may be several of them, or nothing says what these are.
    """
    needed = set(range(len(names)) if present is None else present)
    if classes is not None and tuple(names) == classes.names:
        return Matching(np.arange(len(names), dtype=np.int32), "")
    if numbers and _are_outputs(names, classes):
        limit = outputs if classes is None else len(classes)
        beyond = [name for place, name in enumerate(names) if int(name) >= limit and place in needed]
        if beyond:
            raise UserError(
                f"the classes of {data} are numbers, which mean outputs: {classifier} has 0 to {limit - 1}, and not "
                f"{_some(beyond)}. {hint}"
            )
        found, how = [int(name) if int(name) < limit else -1 for name in names], "number"
    elif classes is None:
        raise UserError(
            f"nothing says what the {outputs} outputs of {classifier} are called, so the classes of {data} "
            f"({_some(names)}) cannot be matched to them. {hint}"
        )
    else:
        found, how = _find(names, classes, needed, data, classifier, hint)
    seen: dict[int, str] = {}
    for name, output in zip(names, found, strict=True):
        if output >= 0 and output in seen:
            raise UserError(
                f"the classes {seen[output]} and {name} of {data} are one class of {classifier}, number {output}: put "
                "their examples into one"
            )
        seen[output] = name
    return Matching(np.array(found, np.int32), how)


def _are_outputs(names: Sequence[str], classes: Classes | None) -> bool:
    """Whether names are numbers of outputs: numbers that are no names which the classifier has itself."""
    if not are_numbers(names):
        return False
    return classes is None or not (are_numbers(classes.names) or set(names) <= set(classes.names))


def _find(
    names: Sequence[str], classes: Classes, needed: set[int], data: str, classifier: str, hint: str
) -> tuple[list[int], str]:
    index = _Index(classes)
    candidates, ways = zip(*map(index.find, names), strict=True)
    found, missing = _eliminate(candidates), []
    for place, (name, left) in enumerate(zip(names, found, strict=True)):
        if len(left) > 1 and place in needed:
            told = " or ".join(index.describe(candidate) for candidate in left[:_SHOWN])
            raise UserError(
                f"the class {name} of {data} may be {told} of {classifier}: rename it to the synset id or whole name "
                "of the one that is meant"
            )
        if not left and place in needed:
            missing.append(name)
    if missing:
        others = len(needed) - len(missing)
        also = f" ({others} others match)" if others else ""
        if others and hint == HOW_TO_SAY:
            hint = f"Take their examples out of {data} to measure the others; if it is a matter of names, {hint}"
        raise UserError(
            f"{data} has {len(missing)} {'class' if len(missing) == 1 else 'classes'} that {classifier} lacks: "
            f"{_some(missing)}{also}. Its {len(classes)} classes are {_some(classes.names, 2)} by {classes.origin}. "
            f"{hint}"
        )
    used = {way for way, left in zip(ways, found, strict=True) if len(left) == 1}
    return [left[0] if len(left) == 1 else -1 for left in found], " and ".join(sorted(used))


def _eliminate(candidates: Sequence[list[int | str]]) -> list[list[int | str]]:
    """Candidates without those that another class of the data alone is, until no more can be told apart."""
    left = list(candidates)
    while True:
        taken = {each[0] for each in left if len(each) == 1}
        fewer = [each if len(each) == 1 else [one for one in each if one not in taken] for each in left]
        # What has no candidate left was one of those taken.
        fewer = [new or old for new, old in zip(fewer, left, strict=True)]
        if fewer == left:
            return left
        left = fewer


class _Index:
    """Finds outputs by all names they may have.

    A candidate is the number of an output, or the synset id of a class that the classifier lacks.
    """

    def __init__(self, classes: Classes):
        self.classes = classes
        self._numbered = are_numbers(classes.names)
        self._exact, self._synsets, self._own, self._listed = (defaultdict(list) for _ in range(4))
        for output, (name, synset) in enumerate(zip(classes.names, classes.synsets, strict=True)):
            self._exact[name].append(output)
            if synset:
                self._synsets[synset].append(output)
            for key in _keys(name) if synset_of(name) is None else ():
                self._own[key].append(output)
        # The list that holds all of the classes: the larger one has many more meanings of a word.
        self._list = NUM_1K if self._synsets.keys() <= _words(NUM_1K).keys() else NUM_22K

    def find(self, name: str) -> tuple[list[int | str], str]:
        """The candidates for a name of the data, and what they were found by."""
        if self.classes.exact and name in self._exact:
            return self._exact[name], "name"
        if synset := synset_of(name):
            return self._synsets.get(synset, []), "synset id"
        if name.isdecimal() and self._numbered:
            return [output for output, other in enumerate(self.classes.names) if int(other) == int(name)], "name"
        candidates = _common(self._own.get, name)
        if not candidates and self._synsets:
            synsets = _common(_lemmas(self._list).get, name)
            candidates = [each for synset in synsets for each in self._synsets.get(synset, [synset])]
            if not any(isinstance(candidate, int) for candidate in candidates):
                candidates = []
        return candidates, "name"

    def describe(self, candidate: int | str) -> str:
        """A candidate in words."""
        if isinstance(candidate, str):
            return f"{candidate} ({_words(self._list)[candidate]}, which it lacks)"
        name, synset = self.classes.names[candidate], self.classes.synsets[candidate]
        words = _words(self._list).get(synset, "")
        return f"{synset} ({words})" if words else f"{name} (number {candidate})"


def _common(find, name: str) -> list:
    """What all that a name says have in common: its whole, or its lemmas; where these have nothing, all they mean."""
    if whole := find(_plain(name)):
        return list(whole)
    found = [set(each) for lemma in name.split(",") if (each := find(_plain(lemma)))]
    return sorted(set.intersection(*found) or set.union(*found), key=str) if found else []


def _plain(text: str) -> str:
    return _SEPARATORS.sub(_without_separator, unicodedata.normalize("NFKC", text).casefold())


def _without_separator(found: re.Match[str]) -> str:
    """Nothing in place of a separator, unless it makes a number another one: 1.5 is not 15, and -5 is not 5."""
    before, after = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    if not after.isdecimal() or (before and not before.isdecimal()):
        return ""
    if "." in found[0]:
        return "."
    return " " if before else "-" if "-" in found[0] else ""


def _keys(name: str) -> set[str]:
    """A name and each of its lemmas, plain."""
    return {_plain(part) for part in (name, *name.split(","))} - {""}


@cache
def _words(count: int) -> dict[str, str]:
    """Lemmas by synset id."""
    return dict(class_list(count))


@cache
def _lemmas(count: int) -> dict[str, list[str]]:
    """Synset ids by lemma, and by all lemmas together."""
    found = defaultdict(list)
    for synset, words in class_list(count):
        for key in _keys(words):
            found[key].append(synset)
    return found


def _some(names: Sequence[str], most: int = _SHOWN) -> str:
    return f"{', '.join(names[:most])}{', ...' if len(names) > most else ''}"


@dataclass(frozen=True)
class Relabelled:
    """A data set whose labels are a classifier's outputs.

    Attributes:
      source: the data set.
      class_names: the classifier's.
      outputs: `[classes of the source]` int32, the output of each.
    """

    source: Source
    class_names: tuple[str, ...]
    outputs: np.ndarray

    @property
    def fingerprint(self) -> str:
        """The data set's: its examples are the same, in the same order."""
        return self.source.fingerprint

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in self.__dataclass_fields__:  # while it is unpickled
            raise AttributeError(name)
        value = getattr(self.source, name)
        return self.outputs[value] if name == "labels" else value

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Picture, Label]:
        picture, label = self.source[index]
        return picture, np.where(label < 0, np.int32(-1), self.outputs[label])[()]

    def name(self, index: int) -> str:
        """What to call the example in a message."""
        return self.source.name(index)


def labels_present(source: Source) -> np.ndarray:
    """The labels that examples of a data set have, sorted; reads all of them where the source does not know."""
    known = getattr(source, "labels", None)
    found = set(np.unique(known).tolist()) if known is not None else set()
    for index in range(len(source) if known is None else 0):
        found.update(np.ravel(source[index][1]).tolist())
    return np.array(sorted(found - {-1}), np.int32)
