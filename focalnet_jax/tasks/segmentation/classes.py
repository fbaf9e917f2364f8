"""Matches the classes of data to the outputs of a trained UPerNet, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from focalnet_jax.data.class_words import keys_of
from focalnet_jax.data.decode import Picture
from focalnet_jax.data.masks import IGNORED, MaskCoding, StoredMask, decode_mask
from focalnet_jax.distributed.startup import is_first
from focalnet_jax.errors import UserError, abbreviated
from focalnet_jax.tasks.segmentation.sources import PairSource

_SHOWN = 5


@dataclass(frozen=True)
class RelabelledPairs:
    """Images with masks that store outputs of a model. All other attributes are those of `source`.

    Attributes:
      source: the images with masks.
      class_names: names of the outputs.
      outputs: output of each class of the source.
    """

    source: PairSource
    class_names: tuple[str, ...]
    outputs: tuple[int, ...]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of `source`, because the examples and their order are the same."""
        return self.source.fingerprint

    @property
    def coding(self) -> MaskCoding:
        """The coding of masks that store outputs."""
        return MaskCoding(len(self.class_names))

    @cached_property
    def palette(self) -> np.ndarray | None:
        """Colours of the outputs `[K, 3]` uint8, grey for outputs that the source lacks; None without any colours."""
        if self.source.palette is None:
            return None
        colours = np.full((len(self.class_names), 3), 128, np.uint8)
        colours[list(self.outputs)] = self.source.palette
        return colours

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in self.__dataclass_fields__:  # in unpickling, before `source` exists
            raise AttributeError(name)
        return getattr(self.source, name)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Picture, StoredMask]:
        picture, stored = self.source[index]
        table = np.full(256, IGNORED, np.uint8)
        table[: len(self.outputs)] = self.outputs
        return picture, table[decode_mask(stored, self.source.coding)]

    def name(self, index: int) -> str:
        """Returns the name of an example for messages."""
        return self.source.name(index)


def match_pairs(
    source: PairSource, known: Sequence[str] | None, outputs: int, *, data: str, model: str, advice: str
) -> PairSource:
    """Returns `source` with masks that store the outputs of a model, matched by the names of the classes.

    Names are compared in lower case, without spaces, hyphens, underscores and apostrophes; several names of one class
    are separated by commas. If the names of the outputs are unknown, and the numbers of outputs and classes are equal,
    the classes are assumed to be in the order of the outputs, and a note reports it.

    Args:
      source: images with masks.
      known: names of the outputs, or None if they are unknown.
      outputs: number of outputs.
      data: name of the data in messages.
      model: name of the model in messages.
      advice: what to do if classes do not match, for messages.

    Raises:
      UserError: the model lacks a class; two classes of the data match the same output; or the outputs have no names,
        and the numbers of outputs and classes differ.
    """
    names = source.class_names
    if not known:
        if len(names) != outputs:
            raise UserError(
                f"the names of the {outputs} outputs of {model} are unknown, and {data} has {len(names)} classes: "
                f"{advice}"
            )
        if is_first():
            print(
                f"note: the outputs of {model} have no names; they are assumed to be the {outputs} classes of {data}, "
                f"in this order: {abbreviated(names, 3)}"
            )
        return source
    if tuple(names) == tuple(known):
        return source
    by_name: dict[str, list[int]] = {}
    for output, name in enumerate(known):
        for key in keys_of(name):
            by_name.setdefault(key, []).append(output)
    exact = {name: output for output, name in enumerate(known)}
    found = [[exact[name]] if name in exact else _outputs(name, by_name) for name in names]
    missing = [name for name, each in zip(names, found, strict=True) if len(each) != 1]
    if missing:
        count = f"{len(missing)} {'class' if len(missing) == 1 else 'classes'}"
        raise UserError(
            f"{data} has {count} that {model} lacks: {abbreviated(missing, _SHOWN)}; the {len(known)} classes of the "
            f"model are {abbreviated(known, _SHOWN)}: {advice}"
        )
    matched = tuple(each[0] for each in found)
    for output in matched:
        if matched.count(output) > 1:
            same = [name for name, each in zip(names, matched, strict=True) if each == output]
            raise UserError(
                f"the classes {' and '.join(same)} of {data} both match {known[output]} of {model}: {advice}"
            )
    if is_first():
        print(f"{data}: {len(names)} of the {len(known)} classes of {model}, matched by name")
    return RelabelledPairs(source, tuple(known), matched)


def _outputs(name: str, by_name: dict[str, list[int]]) -> list[int]:
    """Returns the outputs that have a name in common with a class."""
    return sorted({output for key in keys_of(name) for output in by_name.get(key, [])})
