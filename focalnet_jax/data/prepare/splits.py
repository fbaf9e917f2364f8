"""Compares the labels of the other splits with those of train: the same label must mean the same class."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence, Set

from focalnet_jax.data.class_lists import synset_of
from focalnet_jax.data.prepare.index import Index
from focalnet_jax.data.prepare.kinds import Sources
from focalnet_jax.data.source import are_numbers
from focalnet_jax.errors import UserError, abbreviated

# Share of the named images of a class that must be of one synset, for this to be what the class shows.
_NEARLY_ALL = 0.95
# Up to this share of images may contradict train, if each has a label of its own.
_FEW = 0.05

Classes = dict[str, Counter[str]]  # images by proven synset, by class name


def check_splits(sources: Sources, indices: Sequence[Index]) -> None:
    """Raises `UserError` if a split uses other labels than train for the same images, or prints that it may.

    The synsets in the names of images show what a class means. Numbers without names or synsets are compared as sets.
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
    """Raises `UserError` if the images of a synset that one class of train shows have another label in a split."""
    of = {synset: name for name, synsets in train.items() if (synset := _shown(synsets))}
    of = {synset: name for synset, name in of.items() if _only_in(train, synset, name)}
    agree, differ = Counter(), defaultdict(Counter)
    for name, synsets in other.items():
        for synset, count in synsets.items():
            if of.get(synset) == name:
                agree[synset] += count
            elif synset in of and not synset_of(name):
                differ[synset][name] += count
    never = {synset: sum(names.values()) for synset, names in differ.items() if not agree[synset]}
    total = sum(agree.values()) + sum(sum(names.values()) for names in differ.values())
    if any(count > 1 for count in never.values()) or sum(never.values()) > _FEW * total:
        synset = max(never, key=never.__getitem__)
        (name, count), *_ = differ[synset].most_common(1)
        raise UserError(
            f"{count} images of {split} that are named after {synset} are of class {name}, but those of train are of "
            f"class {of[synset]}: number or name the classes of {split} as in train"
        )


def _shown(synsets: Counter[str]) -> str | None:
    """Returns the synset of nearly all named images of a class, or None."""
    (synset, count), *_ = synsets.most_common(1)
    return synset if count >= _NEARLY_ALL * sum(synsets.values()) else None


def _only_in(classes: Classes, synset: str, name: str) -> bool:
    """Returns whether nearly all images of a synset are in this class."""
    return classes[name][synset] >= _NEARLY_ALL * sum(synsets[synset] for synsets in classes.values())


def _compare_numbers(sources: Sources, split: str, train: Set[int], other: Set[int]) -> None:
    """Raises `UserError` if a split has numbers that train lacks, or seems to count from 1 unlike train.

    If the user has given a class for each number, this is only printed.
    """
    starts_at_1 = min(train) == 0 and min(other) == 1
    lacking = sorted(other - train)
    names = sources.labels.names
    if names is None and (lacking or starts_at_1):
        found = f"such as {lacking[0]}, that train lacks" if lacking else f"from 1 to {max(other)}, but train from 0"
        raise UserError(
            f"{split} has numbers, {found}: they may mean other classes there; correct them, or give --classes FILE "
            "with the class of each number if they are right"
        )
    if names and starts_at_1:
        print(
            f"note: {split} has no image with the number 0 ({abbreviated(names, 1)}), but train has: if its numbers "
            "start at 1, all its labels are wrong"
        )
