"""Collects the labels of each split, and the images whose names, folders or label list prove their classes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from focalnet_jax.data.class_lists import NUM_1K, synset_of
from focalnet_jax.data.prepare.index import Claim, Index
from focalnet_jax.data.prepare.kinds import Sources
from focalnet_jax.data.prepare.labels import synsets_named
from focalnet_jax.data.source import are_numbers


@dataclass
class SplitLabels:
    """The labels of a split, compared with the classes that names, folders or the label list prove.

    Attributes:
      agree: number of images whose class is the proven class, by label.
      differ: number of images whose class is not the proven class, by label and proven class.
      names: class name by label.
      outside: number of images whose label means no class, by label.
      numbers: numeric labels in files without class names.
      stated: numeric labels in files with class names.
      sources: the part of `numbers` in each container.
    """

    agree: Counter[str] = field(default_factory=Counter)
    differ: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    names: dict[str, str] = field(default_factory=dict)
    outside: Counter[str] = field(default_factory=Counter)
    numbers: set[int] = field(default_factory=set)
    stated: set[int] = field(default_factory=set)
    sources: list[NumericLabels] = field(default_factory=list)


@dataclass
class NumericLabels:
    """The numeric labels of a container without class names."""

    title: str
    found: set[int] = field(default_factory=set)
    proven: bool = False  # whether a proof agrees with the class of any of the numbers


def labels_by_split(sources: Sources, indices: Sequence[Index], imagenet: bool) -> dict[str, SplitLabels]:
    """Returns the labels of each split, with the number of images whose label a proof confirms or contradicts."""
    known = {synset for index in indices for claim in index.claims for synset in synsets_named(claim.name)}
    numbered = any(claim.used and _is_unnamed_number(claim) for index in indices for claim in index.claims)
    splits: dict[str, SplitLabels] = defaultdict(SplitLabels)
    for container, index in zip(sources.containers, indices, strict=True):
        numbers = NumericLabels(container.title)
        for claim, count in index.claims.items():
            found = splits[claim.split or container.split or "train"]
            is_number = _is_unnamed_number(claim)
            if not claim.used and not numbered:
                continue
            if is_number and claim.used:
                numbers.found.add(int(claim.label))
            elif claim.stated and are_numbers([claim.label]):
                found.stated.add(int(claim.label))
            label = claim.label
            if found.names.setdefault(label, claim.name) != claim.name:  # another file has another class for this label
                label = f"{label} ({claim.name})"
                found.names[label] = claim.name
            if not claim.name and claim.used:
                found.outside[label] += count
            meant = synsets_named(claim.name) if claim.name else frozenset()
            if claim.beside and (claim.name == claim.beside or meant & synsets_named(claim.beside)):
                found.agree[label] += count
                numbers.proven |= is_number
            elif claim.beside:
                found.differ[label][claim.beside] += count
            elif not claim.proven or not all(map(synset_of, meant)):
                continue
            elif claim.proven in meant:
                found.agree[label] += count
                numbers.proven |= is_number
            elif imagenet or claim.proven in known:  # in other data sets, a class tabby may contain other cats too
                found.differ[label][claim.proven] += count
        if numbers.found:
            splits[container.split or "train"].numbers |= numbers.found
            splits[container.split or "train"].sources.append(numbers)
    return splits


def _is_unnamed_number(claim: Claim) -> bool:
    """Returns whether a label is a number in a file without class names."""
    return not claim.stated and are_numbers([claim.label])


def proven_numbers(found: SplitLabels) -> set[int]:
    """Returns the numbers of all containers in which a proof confirms at least one number.

    If the split contains all 1000 numbers, they need no proof, and all are returned.
    """
    if len(found.numbers) == NUM_1K:
        return set(found.numbers)
    return set().union(*(source.found for source in found.sources if source.proven))
