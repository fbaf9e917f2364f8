"""Checks labels against proofs of their classes: synsets in names of images and folders, and the label list."""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import PurePosixPath

import numpy as np

from focalnet_jax.data.class_lists import NUM_1K, synset_of
from focalnet_jax.data.prepare.index import AMBIGUOUS, GOOD, Index
from focalnet_jax.data.prepare.kinds import Sources
from focalnet_jax.data.prepare.naming import FIRST_IMAGE, FIRST_SYNSET, SPLITS
from focalnet_jax.data.prepare.proofs import SplitLabels, labels_by_split, proven_numbers
from focalnet_jax.data.source import are_numbers
from focalnet_jax.errors import UserError

# Labels that proofs contradict and never confirm are tolerated if each has one contradicted image, and together they
# have at most this fraction of the images with proofs.
_FEW = 0.05
# A set of numbers is suspicious if the probability that randomly chosen classes have no larger number is below this.
_UNLIKELY = 1e-6
_GIVE = "give --classes FILE with one class per line, in the order of the numbers from 0"
_GIVE_ORDER = f"{_GIVE}, or --classes imagenet1k for the order of the sorted synsets"


def check_numbering(sources: Sources, indices: Sequence[Index], classes: Sequence[str]) -> None:
    """Raises `UserError` if labels contradict the proofs of their classes, or are ambiguous or outside the class list.

    ImageNet-1K's numeric labels also need a proof of their order, unless the user gives the order with --classes.
    Unproven numbers in the label list of val are compared with the classes of train.
    """
    imagenet = any(container.imagenet for container in sources.containers)
    names = sources.labels.names or tuple(classes)
    splits = labels_by_split(sources, indices, imagenet)
    ordered = sources.labels.ordered
    advice = "correct the list of --classes" if ordered else _GIVE_ORDER if imagenet else _GIVE
    for split, found in splits.items():
        others = [name for name, other in splits.items() if name != split and other.agree and not other.differ]
        _refuse_contradicted(split, found, others, advice)
        _refuse_outside(split, found, names, imagenet, given=ordered)
    check_first(sources, indices)
    _refuse_ambiguous(sources, indices)
    if not imagenet:
        return
    train, val = splits.get("train", SplitLabels()), splits.get("val", SplitLabels())
    trained = _trained(indices)
    if not sources.labels.ordered:
        if train.numbers or not trained:
            _refuse_unknown_order(*((train, val) if train.numbers or trained else (val, SplitLabels())))
        of_train = {number for number, name in enumerate(names) if name in trained}
        for split, found in splits.items():
            known = proven_numbers(found)
            if split == "val" and trained:
                known |= of_train
                if not proven_numbers(val):
                    _refuse_other_numbers("the labels of val", val.numbers, trained, names, _GIVE_ORDER)
            _refuse_other_sources(found, known)
    listed = sources.val_labels.unproven if sources.val_labels else frozenset()
    advice = "give --val-labels with synsets in place of numbers"
    _refuse_other_numbers("the numbers in the label list of val", listed, trained, names, advice)


def check_first(sources: Sources, indices: Sequence[Index]) -> None:
    """Raises `UserError` if ImageNet's first validation image has a wrong class.

    If there are fewer classes than in ImageNet-1K, only a warning is printed, because other images, such as test data,
    may have ImageNet's file names.
    """
    present = set().union(*(np.unique(index.members["class_name"]).tolist() for index in indices))
    for container, index in zip(sources.containers, indices, strict=True):
        members = index.members
        files = members["file"]
        if not len(files) or files.dtype.itemsize < len(FIRST_IMAGE):
            continue
        for member in np.flatnonzero(np.char.find(files, FIRST_IMAGE.encode()) >= 0).tolist():
            name = members["class_name"][member].decode()
            is_first = PurePosixPath(files[member].decode(errors="replace")).stem == FIRST_IMAGE
            synset = synset_of(name)
            if is_first and synset and synset != FIRST_SYNSET and members["why_not"][member] == GOOD:
                wrong = f"{FIRST_IMAGE} in {container.title} has class {name}, but shows a sea snake, {FIRST_SYNSET}"
                if len(present) >= NUM_1K:
                    raise UserError(f"{wrong}: the labels of val belong to other images; correct or remove them")
                print(f"warning: {wrong}; if these are images of ImageNet, the labels of val are wrong")


def _refuse_contradicted(split: str, found: SplitLabels, others: Sequence[str], todo: str) -> None:
    """Raises `UserError` if proofs contradict more images of a split than they confirm, or never confirm a label.

    A few images with labels that proofs contradict and never confirm are allowed, see `_FEW`.

    Args:
      split: name of the split.
      found: labels of the split.
      others: names of the other splits in which all proofs confirm the labels.
      todo: advice in the message if the label is a number without a class name in the file.
    """
    differing = {label: sum(proven.values()) for label, proven in found.differ.items()}
    differ, agree = sum(differing.values()), sum(found.agree.values())
    never = {label: count for label, count in differing.items() if not found.agree[label]}
    wrong = any(count > 1 for count in never.values()) or sum(never.values()) > _FEW * (differ + agree)
    if not wrong and differ <= agree:
        return
    label = max(never or differing, key=differing.__getitem__)
    proven, count = found.differ[label].most_common(1)[0]
    name = found.names[label]
    is_number = are_numbers([label]) and int(label) in found.numbers
    advice = "correct the labels, folders or label list, or the names of the images"
    if is_number:
        advice = f"{todo}{_shifted(found)}"
    if others and are_numbers([label]):
        advice = f"the labels of {others[0]} agree with the names, so number the classes of {split} in the same way"
    meaning = f"label {label} means {name or 'none of the classes'}, but {count} images with this label are named"
    if label == name:
        meaning = f"{count} images of class {name} are named"
    raise UserError(
        f"the labels of {split} contradict the names of {differ} of the {differ + agree} images with a class in their "
        f"names: {meaning} after {proven}; {advice}"
    )


def _shifted(found: SplitLabels) -> str:
    """Returns a hint for the user if each number seems to mean the class of the previous number, else ""."""
    labels = [int(label) for label in found.differ if are_numbers([label])]
    before = [found.names.get(str(number - 1)) for number in labels]
    known = [(number, name) for number, name in zip(labels, before, strict=True) if name]
    if known and all([*found.differ[str(number)]] == [name] for number, name in known):
        return " (the numbers seem to start at 1; the first line is for 0)"
    return ""


def _refuse_outside(split: str, found: SplitLabels, names: Sequence[str], imagenet: bool, *, given: bool) -> None:
    """Raises `UserError` if labels are outside the list of classes.

    In ImageNet-1K, every label outside the list is an error. In other data sets, there are two errors: a number is too
    large for the list, or no number is 0, which suggests that the numbers start at 1. Images with other labels outside
    the list are rejected without an error. `given` states whether the user gave the list with --classes.
    """
    count = sum(found.outside.values())
    numbers = found.numbers | found.stated
    too_large = bool(found.numbers) and max(found.numbers) >= len(names)
    if not count or not (imagenet or too_large or (0 not in numbers and numbers)):
        return
    label = max(found.numbers) if too_large else found.outside.most_common(1)[0][0]
    shifted = f", and none is 0 ({names[0]}), so they seem to start at 1" if 0 not in numbers else ""
    todo = "add the missing classes to the list of --classes" if given and not shifted else _GIVE
    todo = f"{todo}{' (the first line is for 0)' if shifted else ''}, or correct the labels"
    if found.stated:
        todo = "correct the labels; the class names in the file are numbered from 0"
    raise UserError(
        f"the labels of {count} images of {split}, such as {label}, are outside the {len(names)} classes{shifted}: "
        f"{todo}"
    )


def _refuse_ambiguous(sources: Sources, indices: Sequence[Index]) -> None:
    """Raises `UserError` if labels fit several classes, and nothing else determines the class."""
    for container, index in zip(sources.containers, indices, strict=True):
        files = index.members["file"][index.members["why_not"] == AMBIGUOUS]
        if len(files):
            val = "give --val-labels, or " if container.split == "val" else ""
            raise UserError(
                f"{container.title}: the labels of {len(files)} images, such as {files[0].decode(errors='replace')}, "
                "are words that several classes share, such as crane and maillot; "
                f"{val}use synsets or numbers as labels"
            )


def _trained(indices: Sequence[Index]) -> set[str]:
    """Returns the names of the classes with training images."""
    return set().union(*(index.class_names(SPLITS.index("train")) for index in indices))


def _refuse_unknown_order(found: SplitLabels, other: SplitLabels) -> None:
    """Raises `UserError` if labels are only some of ImageNet-1K's numbers, and nothing proves their order.

    The proven numbers of the split `other` are a proof if they are the same numbers.
    """
    numbers = found.numbers
    if numbers and not proven_numbers(found) and proven_numbers(other) != numbers:
        raise UserError(
            f"the labels are {len(numbers)} different numbers from {min(numbers)} to {max(numbers)}, and nothing "
            f"proves that they are ImageNet's class indices: {_GIVE_ORDER}"
        )


def _refuse_other_sources(found: SplitLabels, known: Set[int]) -> None:
    """Raises `UserError` if a container without proofs has numbers outside `known`, or only the lowest of `known`.

    The lowest numbers are allowed if no other container has them, because the containers are then sorted by class. A
    container with all 1000 numbers needs no proof.
    """
    for source in found.sources if known else ():
        others = set().union(*(other.found for other in found.sources if other is not source))
        sorted_by_class = bool(others) and source.found.isdisjoint(others)
        if source.proven or len(source.found) == NUM_1K:
            continue
        if not source.found <= known or (not sorted_by_class and _are_lowest(source.found, known)):
            raise UserError(
                f"nothing proves the order of the labels of {source.title}, {len(source.found)} different numbers from "
                f"{min(source.found)} to {max(source.found)}, and other files have other numbers, so they may be in "
                f"another order: {_GIVE_ORDER}"
            )


def _are_lowest(numbers: Set[int], known: Set[int]) -> bool:
    """Returns whether `numbers` are improbably low for randomly chosen numbers of `known`, see `_UNLIKELY`."""
    lowest = sum(number <= max(numbers) for number in known)
    return (lowest / len(known)) ** len(numbers) < _UNLIKELY


def _refuse_other_numbers(title: str, numbers: Set[int], trained: Set[str], names: Sequence[str], advice: str) -> None:
    """Raises `UserError` if unproven numbers mean classes that train lacks, start at 1, or seem to be in another order.

    `title` is the beginning of the message, and `advice` is its end.
    """
    of_train = {number for number, name in enumerate(names) if name in trained}
    if not trained or not numbers:
        return
    if lacking := sorted(number for number in numbers if number not in of_train and number < len(names)):
        raise UserError(
            f"{title} mean {len(lacking)} classes that have no training images, such as {lacking[0]} "
            f"({names[lacking[0]]}), so they may be in another order: {advice}"
        )
    shifted = 0 in of_train and 0 not in numbers and {number - 1 for number in numbers} <= of_train
    first = len(numbers) > 1 and set(numbers) == set(range(len(numbers))) and set(numbers) < of_train
    if shifted or first or _are_lowest(numbers, of_train):
        raise UserError(
            f"{title} are {min(numbers)} to {max(numbers)}, but train has {len(of_train)} classes, so they may "
            f"{'start at 1' if shifted else 'be in another order'}: {advice}"
        )
