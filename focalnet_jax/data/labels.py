"""Matches the classes of a data set to the outputs of a classifier.

A data set and a classifier from different origins name their classes differently: by synset ids, numbers or words.
`match_classes` finds the output of every class of the data set, and `relabelled.Relabelled` is the data set with these
outputs as labels. Classes are never matched by their order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from focalnet_jax.data.class_lists import NUM_1K, NUM_22K, class_list, synset_of
from focalnet_jax.data.class_words import find_by_words, keys_of, lemmas_by_synset, synsets_by_lemma
from focalnet_jax.data.source import are_numbers
from focalnet_jax.errors import UserError, abbreviated

HOW_TO_SAY = "--config.data.classes=FILE names the classifier's outputs, one class per line, in the outputs' order"
# Share of names that must match ImageNet's list at their index. Sources of the list differ in a few words, but names in
# a different order match almost nowhere.
_IN_ORDER = 0.9
_SHOWN = 5


@dataclass(frozen=True)
class Classes:
    """Class names of the outputs of a classifier, in the order of the outputs.

    Attributes:
      names: names of all outputs, or of the first outputs if the others are unused.
      origin: description of the source of the names.
      exact: whether the names are the class names of the training data; False for names that were made for display.
    """

    names: tuple[str, ...]
    origin: str
    exact: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def first(self, count: int | None) -> Classes:
        """Returns the first `count` classes, or all classes if `count` is None."""
        return self if count is None else replace(self, names=self.names[:count])

    @cached_property
    def synsets(self) -> tuple[str | None, ...]:
        """Synset id of each output, or None if it is unknown.

        An id is the first of these that exists: the id in the name; the id that `_entries` returns; the id of the only
        class of ImageNet-1K whose lemmas match the name, except classes that are the only match of another output.
        """
        named = [
            [synset] if (synset := synset_of(name) or entry) else find_by_words(synsets_by_lemma(NUM_1K).get, name)
            for name, entry in zip(self.names, _entries(self.names), strict=True)
        ]
        return tuple(left[0] if len(left) == 1 else None for left in _eliminate(named))


def _entries(names: tuple[str, ...]) -> Sequence[str | None]:
    """Returns the synset id of each name that matches the class at the same index in ImageNet's list.

    The result is None for the other names, and for all names if less than a fraction `_IN_ORDER` of them match.
    """
    listed = class_list(len(names)) or ()
    found = [
        synset if synset_of(name) == synset or keys_of(name) & keys_of(words) else None
        for name, (synset, words) in zip(names, listed, strict=bool(listed))
    ]
    in_order = listed and len(names) - found.count(None) >= _IN_ORDER * len(names)
    return found if in_order else [None] * len(names)


@dataclass(frozen=True)
class Matching:
    """The classifier output for each class of a data set.

    Attributes:
      outputs: index of the output for each class, `[classes of the data]` int32; -1 for a class that has no unique
        match and is not in the argument `present` of `match_classes`.
      how: criterion of the match, such as "synset id"; empty if both sides have the same names in the same order.
    """

    outputs: np.ndarray
    how: str


def classes_of(outputs: int, stated: Sequence[str] | None, origin: str, *, exact: bool = False) -> Classes | None:
    """Returns the class names of a classifier's outputs, or None if they are unknown.

    If `stated` is None and there is an ImageNet list with `outputs` classes, the names are taken from this list.

    Args:
      outputs: number of outputs.
      stated: names from a file or run, None if it contains no names, or empty for a classifier that was not trained.
      origin: description of the source of the names.
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
    is_part: bool = False,
) -> Matching:
    """Finds the classifier output for each class of a data set.

    Equal names mean the same class. Otherwise

    - numbers are indices of outputs;
    - synset ids are classes of ImageNet;
    - words are compared with the names and lemmas of the outputs. Case, spaces, hyphens, underscores, apostrophes and
      periods are ignored.

    Args:
      names: class names of the data.
      classes: class names of the classifier, or None if they are unknown.
      outputs: number of outputs of the classifier.
      data: name of the data set in messages.
      classifier: name of the classifier in messages.
      numbers: whether class names that are numbers can be indices of outputs.
      present: indices of the classes that must have a match, such as the classes with examples; by default all.
      hint: sentence with a remedy for classes that cannot be matched.
      is_part: whether `classifier` describes a part of the outputs, such as "the first 1000 outputs of X".

    Raises:
      UserError: the classifier lacks a class, a class is ambiguous, two classes match the same output, or the
        classifier's classes are unknown.
    """
    needed = set(range(len(names)) if present is None else present)
    if classes is not None and tuple(names) == classes.names:
        return Matching(np.arange(len(names), dtype=np.int32), "")
    if numbers and _are_outputs(names, classes):
        limit = outputs if classes is None else len(classes)
        beyond = [name for index, name in enumerate(names) if int(name) >= limit and index in needed]
        if beyond:
            raise UserError(
                f"the class names of {data} are numbers and therefore mean outputs, but {classifier} has the outputs "
                f"0 to {limit - 1}, not {abbreviated(beyond, _SHOWN)}. {hint}"
            )
        found, how = [int(name) if int(name) < limit else -1 for name in names], "number"
    elif classes is None:
        unnamed = classifier if is_part else f"the {outputs} outputs of {classifier}"
        raise UserError(
            f"the names of {unnamed} are unknown, so the classes of {data} ({abbreviated(names, _SHOWN)}) cannot be "
            f"matched to them. {hint}"
        )
    else:
        found, how = _find(names, classes, needed, data, classifier, hint)
    seen: dict[int, str] = {}
    for name, output in zip(names, found, strict=True):
        if output >= 0 and output in seen:
            raise UserError(
                f"the classes {seen[output]} and {name} of {data} are the same class of {classifier}, number {output}: "
                "merge them"
            )
        seen[output] = name
    return Matching(np.array(found, np.int32), how)


def _are_outputs(names: Sequence[str], classes: Classes | None) -> bool:
    """Returns whether the names are indices of outputs.

    They are if all names are numbers, unless the classifier's class names are all numbers too or contain all the names.
    """
    if not are_numbers(names):
        return False
    return classes is None or not (are_numbers(classes.names) or set(names) <= set(classes.names))


def _find(
    names: Sequence[str], classes: Classes, needed: set[int], data: str, classifier: str, hint: str
) -> tuple[list[int], str]:
    index = _Index(classes)
    candidates, ways = zip(*map(index.find, names), strict=True)
    found, missing = _eliminate(candidates), []
    for number, (name, left) in enumerate(zip(names, found, strict=True)):
        if len(left) > 1 and number in needed:
            options = " or ".join(index.describe(candidate) for candidate in left[:_SHOWN])
            raise UserError(
                f"the class {name} of {data} may be {options} of {classifier}: rename it to its synset id or full name"
            )
        if not left and number in needed:
            missing.append(name)
    if missing:
        others = len(needed) - len(missing)
        also = f" ({others} {'other matches' if others == 1 else 'others match'})" if others else ""
        if others and hint == HOW_TO_SAY:
            hint = f"Remove their examples from {data} to evaluate the other classes; if only the names differ, {hint}"
        raise UserError(
            f"{data} has {len(missing)} {'class' if len(missing) == 1 else 'classes'} that {classifier} lacks: "
            f"{abbreviated(missing, _SHOWN)}{also}. The classifier has {len(classes)} classes "
            f"({abbreviated(classes.names, 2)}), according to {classes.origin}. {hint}"
        )
    used = {way for way, left in zip(ways, found, strict=True) if len(left) == 1}
    return [left[0] if len(left) == 1 else -1 for left in found], " and ".join(sorted(used))


def _eliminate(candidates: Sequence[list[int | str]]) -> list[list[int | str]]:
    """Removes candidates that are the only candidate of a different class, until nothing changes."""
    left = list(candidates)
    while True:
        taken = {each[0] for each in left if len(each) == 1}
        fewer = [each if len(each) == 1 else [one for one in each if one not in taken] for each in left]
        # A class that would lose all its candidates keeps them, because it is the same as a class that takes them.
        fewer = [new or old for new, old in zip(fewer, left, strict=True)]
        if fewer == left:
            return left
        left = fewer


class _Index:
    """Finds outputs by their names, synset ids and lemmas.

    A candidate is the index of an output, or the synset id of a class that the classifier lacks.
    """

    def __init__(self, classes: Classes):
        self.classes = classes
        self._numbered = are_numbers(classes.names)
        self._exact, self._synsets, self._own, self._listed = (defaultdict(list) for _ in range(4))
        for output, (name, synset) in enumerate(zip(classes.names, classes.synsets, strict=True)):
            self._exact[name].append(output)
            if synset:
                self._synsets[synset].append(output)
            for key in keys_of(name) if synset_of(name) is None else ():
                self._own[key].append(output)
        # The smaller list if it contains the synsets of all outputs, because words are more ambiguous in the larger.
        self._list = NUM_1K if self._synsets.keys() <= lemmas_by_synset(NUM_1K).keys() else NUM_22K

    def find(self, name: str) -> tuple[list[int | str], str]:
        """Returns the candidates for a class name of the data, and the criterion by which they were found."""
        if self.classes.exact and name in self._exact:
            return self._exact[name], "name"
        if synset := synset_of(name):
            return self._synsets.get(synset, []), "synset id"
        if name.isdecimal() and self._numbered:
            return [output for output, other in enumerate(self.classes.names) if int(other) == int(name)], "name"
        candidates = find_by_words(self._own.get, name)
        if not candidates and self._synsets:
            synsets = find_by_words(synsets_by_lemma(self._list).get, name)
            candidates = [each for synset in synsets for each in self._synsets.get(synset, [synset])]
            if not any(isinstance(candidate, int) for candidate in candidates):
                candidates = []
        return candidates, "name"

    def describe(self, candidate: int | str) -> str:
        """Returns a description of a candidate for messages."""
        if isinstance(candidate, str):
            return f"{candidate} ({lemmas_by_synset(self._list)[candidate]}, which it lacks)"
        name, synset = self.classes.names[candidate], self.classes.synsets[candidate]
        words = lemmas_by_synset(self._list).get(synset, "")
        return f"{synset} ({words})" if words else f"{name} (number {candidate})"
