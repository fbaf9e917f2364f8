"""Matches the labels of data to the outputs of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ml_collections import FrozenConfigDict

from focalnet_jax.convert.load import Loaded
from focalnet_jax.data.class_files import read_classes
from focalnet_jax.data.class_lists import class_list
from focalnet_jax.data.decode import UnreadableImageError
from focalnet_jax.data.labels import HOW_TO_SAY, Classes, Matching, classes_of, match_classes
from focalnet_jax.data.relabelled import Relabelled, labels_present, outputs_present
from focalnet_jax.data.source import Source, check_class_count
from focalnet_jax.distributed.startup import is_first
from focalnet_jax.errors import UserError, abbreviated
from focalnet_jax.settings import MAIN

Competing = int | np.ndarray | None  # see `Accuracy`
_SHOWN = 5
_MOST_READ = 200_000  # largest number of examples to read for their classes; more would take hours


@dataclass(frozen=True)
class ClassifierInfo:
    """Names and number of the outputs of a classifier, to which the labels of data are matched.

    Attributes:
      classes: names of the outputs, or None if they are unknown.
      outputs: number of outputs.
      name: name of the classifier in messages.
      hint: sentence with advice for data with different classes.
      numbers: whether a class of the data whose name is a number means the output with that index.
      whole: name of the whole classifier if only its first outputs are used, else empty.
    """

    classes: Classes | None
    outputs: int
    name: str
    hint: str = HOW_TO_SAY
    numbers: bool = True
    whole: str = ""


def loaded_classifier(config: FrozenConfigDict, loaded: Loaded, path: str, hint: str = HOW_TO_SAY) -> ClassifierInfo:
    """Returns the classifier of the weights at `path`, with the names from `data.classes` or the weights.

    Raises:
      UserError: `data.classes` cannot be read or does not fit the classifier.
    """
    outputs, stated, file = config.model.num_classes, loaded.info, config.data.classes
    known = classes_of(outputs, stated.classes, path, exact=stated.exact)
    if file is not None:
        given = Classes(read_classes(file), file)
        trained = known.names if known is not None and known.exact else None
        counts = (outputs, _first(config)) if trained is None else (len(trained),)
        if len(given) not in counts:
            raise UserError(
                f"data.classes={file} has {len(given)} classes; expected {counts[0]}, one for each output of {path} in "
                "their order"
            )
        if trained and given.names != trained and set(given.names) == set(trained):
            raise UserError(
                f"data.classes={file} has the classes of {path} in another order than the checkpoint: leave "
                "data.classes out, because the order of the checkpoint is right"
            )
        known = given
    return ClassifierInfo(known, outputs, path, hint, _numbers_are_outputs(known))


def _numbers_are_outputs(classes: Classes | None) -> bool:
    """Returns whether a class of the data whose name is a number means the output with that index.

    It does, except for a run whose output names are not ImageNet's synsets: runs sort the names of folders as text.
    """
    if classes is None or not classes.exact:
        return True
    return classes.names == tuple(synset for synset, _ in class_list(len(classes)) or ())


def stored_classifier(config: FrozenConfigDict, names: Sequence[str] | None, run: str) -> ClassifierInfo:
    """Returns the classifier of a run to resume or to continue, with the class names `names` from its checkpoint.

    Without `names`, the classes are those of `data.classes`.

    Raises:
      UserError: `data.classes` has different classes, or there are no names.
    """
    if names is None:
        if config.data.classes is None:
            raise UserError(
                f"the metadata of {run} lacks classes, the names of its outputs: give them with "
                "--config.data.classes=FILE, one per line in the order of the outputs"
            )
        names = read_classes(config.data.classes)
    classes = Classes(tuple(names), "its checkpoint", exact=True)
    if config.data.classes is not None and read_classes(config.data.classes) != classes.names:
        raise UserError(f"data.classes={config.data.classes} has other classes than {run}: leave it out")
    return ClassifierInfo(classes, config.model.num_classes, run, "Give the data of that run, or start another run")


def label_training(config: FrozenConfigDict, source: Source, classifier: ClassifierInfo | None) -> Source:
    """Returns the training examples with labels that are outputs of the classifier to train.

    A fresh classifier (`classifier` is None) has the classes of `data.classes`, or of the data if this key is not set.

    Raises:
      UserError: the data has classes that the classifier lacks or that cannot be matched, or has more classes than the
        model has outputs; or a fresh classifier would have only one class.
    """
    fresh = classifier is None
    if fresh and config.data.classes is not None:
        classes = Classes(read_classes(config.data.classes), config.data.classes)
        hint = f"Add them to {config.data.classes}"
        classifier = ClassifierInfo(classes, config.model.num_classes, config.data.classes, hint)
    if classifier is not None:
        split = f"split {config.data.train_split}"
        source, matching = _relabelled(source, classifier, split)
        _print_matching(split, source, matching, classifier)
    check_class_count(source, config.model.num_classes)
    if fresh and config.model.num_classes == 1:  # only here: an existing run with one class can still be resumed
        raise UserError(
            f"the data has only one class, {source.class_names[0]}: expected two or more; add another class folder, "
            "such as one for images of anything else"
        )
    return source


def label_evaluation(
    config: FrozenConfigDict, source: Source, train: Source, name: str = MAIN
) -> tuple[Source, Competing]:
    """Returns evaluation examples with the labels of the training data `train`, and the outputs that compete.

    Prints the classes of `train` that the evaluation examples lack.

    Raises:
      UserError: `source` has classes that the training data lacks, or `eval_classes` does not fit.
    """
    split, trained = _called(config, name), config.data.train_split
    classes = Classes(train.class_names, f"split {trained}", exact=True)
    hint = f"Remove these classes from {split}, or add examples of these classes to split {trained}"
    numbers = _numbers_are_outputs(classes)
    classifier = ClassifierInfo(classes, config.model.num_classes, f"split {trained}", hint, numbers)
    return label_for(config, source, classifier, outputs_present(train), name)


def label_for(
    config: FrozenConfigDict,
    source: Source,
    classifier: ClassifierInfo,
    expected: set[int] | None = None,
    name: str = MAIN,
) -> tuple[Source, Competing]:
    """Returns evaluation examples with the labels of a classifier, and the outputs that compete, see `Accuracy`.

    Prints how the labels were matched.

    Args:
      config: config whose `eval_classes` selects the outputs that compete.
      source: the evaluation split.
      classifier: the classifier that is evaluated.
      expected: outputs whose classes the data should have; by default all.
      name: name of the evaluation.

    Raises:
      UserError: `source` has classes that the classifier lacks or that cannot be matched, or `eval_classes` does not
        fit.
    """
    (key, selected), split = _eval_classes(config, name), _called(config, name)
    first, whole = selected if isinstance(selected, int) else None, classifier
    if first is not None:
        if first > classifier.outputs:
            raise UserError(f"{key}={first}: expected at most model.num_classes={classifier.outputs}")
        outputs = f"the first {first} outputs of {classifier.name}"
        classes = classifier.classes and classifier.classes.first(first)
        classifier = replace(classifier, classes=classes, outputs=first, name=outputs, whole=classifier.name)
        expected = expected and {output for output in expected if output < first}
    try:
        source, matching = _relabelled(source, classifier, split)
    except UserError as error:
        if first is not None and (beyond := _classes_from(first, source, whole, split)):
            raise UserError(
                f"{key}={first} evaluates only outputs 0 to {first - 1} of {whole.name}, but {split} also has classes "
                f"of other outputs, {abbreviated(beyond, _SHOWN)}: increase {key}, or leave it out"
            ) from error
        raise
    _print_matching(split, source, matching, classifier, expected)
    competing = first if first is not None else _competing(key, selected, split, classifier, source)
    return source, competing


def _classes_from(first: int, source: Source, classifier: ClassifierInfo, split: str) -> list[str]:
    """Returns the classes of the data with an output of at least `first`, or [] if the data cannot be matched."""
    try:
        source, _ = _relabelled(source, classifier, split)
    except UserError:
        return []
    return [source.class_names[output] for output in sorted(outputs_present(source)) if output >= first]


def _eval_classes(config: FrozenConfigDict, name: str) -> tuple[str, Any]:
    """Returns the key that sets the `eval_classes` of an evaluation, and its value."""
    own = None if name == MAIN else config.evaluations[name].eval_classes
    return ("eval_classes", config.eval_classes) if own is None else (f"evaluations.{name}.eval_classes", own)


def _called(config: FrozenConfigDict, name: str) -> str:
    """Returns the name of an evaluation's data in messages."""
    return f"split {config.data.eval_split}" if name == MAIN else f"evaluation {name}"


def _first(config: FrozenConfigDict) -> int | None:
    return config.eval_classes if isinstance(config.eval_classes, int) else None


def _relabelled(source: Source, classifier: ClassifierInfo, split: str) -> tuple[Source, Matching]:
    names, present = source.class_names, None
    try:
        matching = _match(names, classifier, split)
    except UserError as error:
        # A data set may list classes without examples.
        if not hasattr(source, "labels") and len(source) > _MOST_READ:
            raise
        try:
            present = labels_present(source)
        except UnreadableImageError:
            raise error from None
        if len(present) == len(names):
            raise
        matching = _match(names, classifier, split, present)
    if not matching.how:
        return source, matching
    classes = classifier.classes
    called = tuple(map(str, range(classifier.outputs))) if classes is None else classes.names
    return Relabelled(source, called, matching.outputs), matching


def _match(
    names: Sequence[str], classifier: ClassifierInfo, data: str, present: Sequence[int] | np.ndarray | None = None
) -> Matching:
    return match_classes(
        names,
        classifier.classes,
        outputs=classifier.outputs,
        data=data,
        classifier=classifier.name,
        numbers=classifier.numbers,
        present=present,
        hint=classifier.hint,
        is_part=bool(classifier.whole),
    )


def _print_matching(
    split: str, source: Source, matching: Matching, classifier: ClassifierInfo, expected: set[int] | None = None
) -> None:
    """Prints how classes were matched, and which classes are missing. Prints nothing if the classes are equal."""
    expected = set(range(len(source.class_names))) if expected is None else expected
    found = outputs_present(source)
    missing = [source.class_names[output] for output in sorted(expected - found)]
    if not is_first() or not (matching.how or missing):
        return
    how = f", matched by {matching.how}" if matching.how else ""
    if matching.how == "number" and sorted(names := source.source.class_names) != sorted(names, key=int):
        how += " (torchvision sorts such folders as text: its classifiers need data.classes)"
    if matching.how == "number":
        pairs = zip(source.source.class_names, matching.outputs, strict=True)
        called = [(name, source.class_names[output]) for name, output in pairs if output >= 0]
        means = [f"{name} is {meant}" for name, meant in called if name != meant][:2]
        how += f": {', '.join(means)}, ..." if means else ""
    without = f"; without {', '.join(missing)}" if 0 < len(missing) <= _SHOWN else ""
    of = f"{len(expected)} classes of {classifier.name}"
    if classifier.whole and len(expected) == classifier.outputs:
        of = f"first {len(expected)} classes of {classifier.whole}"
    count = f"{len(expected & found)} of the {of}"
    print(f"{split}: {count}{how}{without}", flush=True)


def _competing(key: str, selected: Any, split: str, classifier: ClassifierInfo, source: Source) -> np.ndarray | None:
    """Returns a mask `[K]` bool of the outputs that compete for the metrics of a subset, or None without a subset."""
    if selected is None:
        return None
    present, mask = labels_present(source), np.zeros(classifier.outputs, bool)
    if selected == "present":
        mask[present] = True
        return mask
    names = read_classes(selected) if isinstance(selected, str) else tuple(map(str, selected))
    given = f"{key}={selected if isinstance(selected, str) else ','.join(names[:3])}"
    mask[_match(names, classifier, given).outputs] = True
    lacking = [source.class_names[label] for label in present if not mask[label]]
    if lacking:
        raise UserError(
            f"{split} has examples of classes that {given} lacks, such as "
            f"{', '.join(lacking[:_SHOWN])}: add these classes to {key}, or remove their examples"
        )
    return mask
