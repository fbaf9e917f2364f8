"""Matches the classes of data to the outputs of a trained UPerNet, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from focalnet_jax.data.class_matching import match_names
from focalnet_jax.data.decode import Picture
from focalnet_jax.data.masks import IGNORED, MaskCoding, StoredMask, decode_mask
from focalnet_jax.tasks.segmentation.sources import PairSource


@dataclass(frozen=True)
class RelabelledPairs:
    """The images of a source, with masks that store outputs of a model instead of classes.

    Attributes that are not listed here are those of `source`.

    Attributes:
      source: the images with masks that store classes.
      class_names: names of the outputs.
      outputs: index of the output for each class of the source.
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
    """Returns `source` with masks that store outputs of a model instead of classes, see `match_names`.

    Args:
      source: images with masks.
      known: names of the outputs, or None if they are unknown.
      outputs: number of outputs.
      data: name of the data in messages.
      model: name of the model in messages.
      advice: what to do if classes do not match, for messages.

    Raises:
      UserError: the names do not match, see `match_names`.
    """
    matched = match_names(source.class_names, known, outputs, data=data, model=model, advice=advice)
    return source if matched is None else RelabelledPairs(source, tuple(known), matched)
