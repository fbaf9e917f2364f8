"""Matches the classes of data to the outputs of a trained detector, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from focalnet_jax.data.class_matching import match_names
from focalnet_jax.data.decode import Picture
from focalnet_jax.data.instances import Instances
from focalnet_jax.tasks.detection.sources import DetectionSource


@dataclass(frozen=True)
class RelabelledSource:
    """The images of a source, with objects whose labels are outputs of a model instead of classes of the source.

    Attributes that are not listed here are those of `source`.

    Attributes:
      source: the images with objects.
      class_names: names of the outputs.
      outputs: index of the output for each class of the source.
    """

    source: DetectionSource
    class_names: tuple[str, ...]
    outputs: tuple[int, ...]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of `source`, because the examples and their order are the same."""
        return self.source.fingerprint

    @cached_property
    def category_ids(self) -> tuple[int, ...]:
        """Category id of each output: the id of its class in the source, or an unused number if there is none."""
        ids = dict(zip(self.outputs, self.source.category_ids, strict=True))
        unused = iter(range(max(self.source.category_ids) + 1, 2**31))
        return tuple(ids[output] if output in ids else next(unused) for output in range(len(self.class_names)))

    def ground_truth(self) -> dict[str, Any]:
        """Returns the annotations of the source, with a category for each output."""
        truth = self.source.ground_truth()
        pairs = zip(self.category_ids, self.class_names, strict=True)
        return truth | {"categories": [{"id": each, "name": name} for each, name in pairs]}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in self.__dataclass_fields__:  # in unpickling, before `source` exists
            raise AttributeError(name)
        return getattr(self.source, name)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Picture, Instances]:
        picture, instances = self.source[index]
        return picture, replace(instances, labels=np.array(self.outputs, np.int32)[instances.labels])

    def name(self, index: int) -> str:
        """Returns the name of an example for messages."""
        return self.source.name(index)


def match_source(
    source: DetectionSource, known: Sequence[str] | None, outputs: int, *, data: str, model: str, advice: str
) -> DetectionSource:
    """Returns `source` with the outputs of a model as its labels, see `match_names`.

    Args:
      source: the images with objects.
      known: names of the outputs, or None if they are unknown.
      outputs: number of outputs.
      data: name of the data in messages.
      model: name of the model in messages.
      advice: what to do if classes do not match, for messages.

    Raises:
      UserError: the names do not match, see `match_names`.
    """
    matched = match_names(source.class_names, known, outputs, data=data, model=model, advice=advice)
    return source if matched is None else RelabelledSource(source, tuple(known), matched)
