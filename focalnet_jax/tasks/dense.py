"""Rules of segmentation and detection about the classes of data and weights, and the normalization of images."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ml_collections import FrozenConfigDict

from focalnet_jax.config import is_auto
from focalnet_jax.convert.load import Loaded
from focalnet_jax.convert.start import Start
from focalnet_jax.data.class_words import keys_of
from focalnet_jax.data.preprocessing import from_config, normalization_in_words
from focalnet_jax.distributed.startup import is_first
from focalnet_jax.errors import UserError, abbreviated


def choose_by_classes(config: FrozenConfigDict, start: Start | None, names: Collection[str] | None) -> dict[str, Any]:
    """Returns values for `model.num_classes` and `init_head`, if the config leaves them open.

    `init_head` is "drop" if there are weights whose classes are not those of the data in any order, else "keep".

    Args:
      config: config of a run or of an evaluation.
      start: architecture and classes stored with the initial or evaluated weights, or None without weights.
      names: names of the classes of the training examples, or None without examples. `init_head` is then not chosen.
    """
    chosen: dict[str, Any] = {}
    if names is not None:
        same = start is None or {*map(_key, start.classes or ())} == {*map(_key, names)}
        chosen = {"model.num_classes": len(names), "init_head": "keep" if same else "drop"}
    elif start is not None:
        chosen = {"model.num_classes": start.model.num_classes}
    return {key: value for key, value in chosen.items() if is_auto(config, key)}


def _key(name: str) -> str:
    return " ".join(sorted(keys_of(name)))


def note_normalization(config: FrozenConfigDict, loaded: Loaded, path: str) -> None:
    """Prints a note if the initial weights at `path` were trained with another normalization than the config's."""
    ours, theirs = from_config(config.data).normalization, loaded.info.preprocessing
    if is_first() and theirs is not None and theirs.normalization != ours:
        print(
            f"note: {path} was trained on images with {normalization_in_words(theirs.normalization)}; the run uses "
            f"the config's {normalization_in_words(ours)}"
        )


def normalization_keys(config: FrozenConfigDict, loaded: Loaded, named: Collection[str]) -> Mapping[str, Any]:
    """Returns values for `data.mean` and `data.std`: the normalization stored with evaluated weights.

    The result is empty if the weights have no stored normalization, if the config has the same one, or if `named`, the
    keys set on the command line, contains one of the two keys. Otherwise, a line of output reports the normalization.
    """
    how, own = loaded.info.preprocessing, from_config(config.data).normalization
    if how is None or how.normalization == own or {"data.mean", "data.std"} & set(named):
        return {}
    if is_first():
        print(
            f"images are normalized as the weights require: {normalization_in_words(how.normalization)}; "
            "to normalize them as in the config, give data.mean and data.std on the command line"
        )
    return {"data.mean": how.normalization.mean, "data.std": how.normalization.std}


def check_same_classes(config: FrozenConfigDict, source: Any | None, evaluated: Iterable[Any | None]) -> None:
    """Raises `UserError` if evaluation examples have other classes than the training examples `source`."""
    for each in evaluated:
        if source is not None and each is not None and each.class_names != source.class_names:
            raise UserError(
                f"split {config.data.eval_split} has the classes {abbreviated(each.class_names, 3)}, but split "
                f"{config.data.train_split} has {abbreviated(source.class_names, 3)}; expected the same classes in the "
                "same order"
            )
