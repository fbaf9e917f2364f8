"""Determines the classes of a data set from its indices, and checks labels, classes and splits."""

from __future__ import annotations

from collections.abc import Sequence

from focalnet_jax.data.prepare import checks, numbering, splits
from focalnet_jax.data.prepare.class_names import refuse_unstorable
from focalnet_jax.data.prepare.index import Index
from focalnet_jax.data.prepare.kinds import KINDS, SourceKind, Sources


def checked_classes(kind: SourceKind, sources: Sources, indices: Sequence[Index]) -> tuple[str, ...]:
    """Returns the class names, after checking labels, lists and images; see `checks`, `numbering` and `splits`.

    Raises:
      UserError: labels, lists or images contradict each other, or are ambiguous.
    """
    checks.check_label_list(sources, indices)
    checks.refuse_repeated(sources, indices)
    if kind == KINDS["imagenet1k"]:
        checks.refuse_empty_classes(sources, indices, "download it again, or remove it")
    checks.refuse_folders_of_images(sources, indices)
    if sources.classes:
        checks.refuse_padded(indices, sources.classes)
    classes = sources.classes or checks.found_class_names(sources, indices)
    refuse_unstorable(classes, indices)
    numbering.check_numbering(sources, indices, classes)
    if kind != KINDS["imagenet1k"]:
        splits.check_splits(sources, indices)
    checks.refuse_validation_in_train(sources, indices)
    return classes
