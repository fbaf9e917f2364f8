"""Compares the labels of val and test with the labels of train: the same label must mean the same class."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence, Set

from focalnet_jax.data.class_lists import synset_of
from focalnet_jax.data.prepare.index import Index
from focalnet_jax.data.prepare.kinds import Sources
from focalnet_jax.data.source import are_numbers
from focalnet_jax.errors import UserError, abbreviated

# A class means a synset if at least this fraction of its images with a synset in their names have this synset.
_NEARLY_ALL = 0.95
# Up to this fraction of images may contradict train without an error, if each has a different synset.
_FEW = 0.05

Classes = dict[str, Counter[str]]  # number of images by class name and proven synset


def check_splits(sources: Sources, indices: Sequence[Index]) -> None:
    """Raises `UserError` if a split uses other labels than train for the same classes.

    The synsets in the names of images show what a class means. Numeric labels without class names are also compared as
    sets. If the class of each number is known, only a note is printed for a split that seems to count from 1.
    """
    classes: dict[str, Classes] = defaultdict(lambda: defaultdict(Counter))
    numbers: dict[str, set[int]] = defaultdict(set)
    for container, index in zip(sources.containers, indices, strict=True):
        for claim, count in index.claims.items():
            split = claim.split or container.split or "train"
            if claim.used and claim.name and claim.proven:
                classes[split][claim.name][claim.proven] += count
            if claim.used and not claim.stated and are_numbers([claim.label]):
                numbers[split].add(int(claim.label))
    for split in sorted({*classes, *numbers} - {"train"}):
        _refuse_other_meaning(split, classes["train"], classes[split])
        if numbers["train"] and numbers[split]:
            _compare_numbers(sources, split, numbers["train"], numbers[split])


def _refuse_other_meaning(split: str, train: Classes, other: Classes) -> None:
    """Raises `UserError` if the images of a synset are one class in train, but another class in `split`.

    Args:
      split: name of the other split.
      train: classes of train.
      other: classes of the other split.
    """
    of_train = {synset: name for name, synsets in train.items() if (synset := _shown(synsets))}
    of_train = {synset: name for synset, name in of_train.items() if _only_in(train, synset, name)}
    agree, differ = Counter(), defaultdict(Counter)
    for name, synsets in other.items():
        for synset, count in synsets.items():
            if of_train.get(synset) == name:
                agree[synset] += count
            elif synset in of_train and not synset_of(name):
                differ[synset][name] += count
    never = {synset: sum(names.values()) for synset, names in differ.items() if not agree[synset]}
    total = sum(agree.values()) + sum(sum(names.values()) for names in differ.values())
    if any(count > 1 for count in never.values()) or sum(never.values()) > _FEW * total:
        synset = max(never, key=never.__getitem__)
        (name, count), *_ = differ[synset].most_common(1)
        raise UserError(
            f"{count} images with {synset} in their file names have class {name} in {split}, but class "
            f"{of_train[synset]} in train: give the classes of {split} the same numbers or names as in train"
        )


def _shown(synsets: Counter[str]) -> str | None:
    """Returns the synset that the names of nearly all images of a class prove, or None if there is no such synset."""
    (synset, count), *_ = synsets.most_common(1)
    return synset if count >= _NEARLY_ALL * sum(synsets.values()) else None


def _only_in(classes: Classes, synset: str, name: str) -> bool:
    """Returns whether nearly all images of `synset` are in the class `name`."""
    return classes[name][synset] >= _NEARLY_ALL * sum(synsets[synset] for synsets in classes.values())


def _compare_numbers(sources: Sources, split: str, train: Set[int], other: Set[int]) -> None:
    """Raises `UserError` if a split has numbers that train lacks, or seems to count from 1 unlike train.

    If the class of each number is known, nothing is raised, and only a note on counting from 1 is printed.
    """
    starts_at_1 = min(train) == 0 and min(other) == 1
    lacking = sorted(other - train)
    names = sources.labels.names
    if names is None and (lacking or starts_at_1):
        found = f"such as {lacking[0]}, that train lacks" if lacking else f"from 1 to {max(other)}, but train from 0"
        raise UserError(
            f"{split} has numeric labels {found}, so a number may mean different classes in {split} and train: correct "
            "the labels, or give --classes FILE with the class of each number if they are right"
        )
    if names and starts_at_1:
        print(
            f"note: {split} has no image with label 0 ({abbreviated(names, 1)}), but train has: if the labels of "
            f"{split} start at 1, all of them are wrong"
        )
