"""Reads data sets of tensorflow-datasets (TFDS) with images and labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from focalnet_jax.data.card import CARD, read_card
from focalnet_jax.data.decode import Picture
from focalnet_jax.data.source import Label, fingerprint_of
from focalnet_jax.data.tfds_records import TfdsRecords
from focalnet_jax.errors import UserError
from focalnet_jax.storage.address import CACHE

_LABELS = ("label", "real_label")  # ImageNet-ReaL has several labels per image, `real_label`
_MOST_LABELS = 32  # per image


class TfdsSource:
    """The images and labels of a split of a TFDS data set, see `TfdsRecords`.

    Raises:
      UserError: see `TfdsRecords`, or the data set has no images or labels.
    """

    def __init__(self, path: str | None, split: str, cache: str = CACHE):
        def check(features: tfds.features.FeaturesDict) -> None:
            labels = [key for key in _LABELS if key in features]
            if "image" not in features or not labels:
                raise UserError(
                    f"{path} has the features {', '.join(features)}; expected image and {' or '.join(_LABELS)}"
                )
            self._label_key = labels[0]
            label = features[self._label_key]
            self._many = hasattr(label, "feature")  # a sequence of labels
            label = label.feature if self._many else label
            if not getattr(label, "num_classes", None):
                raise UserError(f"the feature {self._label_key} of {path} states no classes; expected a ClassLabel")
            self.class_names = tuple(label.names)

        self.records = TfdsRecords(path, split, cache, check)
        with self.records.errors_name_bucket():
            on_card = _fingerprint_on_card(self.records.folder / CARD, self.class_names)
        self.fingerprint = fingerprint_of([*self.records.identity, *self.class_names, on_card])

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Picture, Label]:
        example = self.records[index]
        label = example[self._label_key]
        if not self._many:
            if not 0 <= label < len(self.class_names):  # TFDS stores -1 for examples without label
                raise UserError(
                    f"{self.name(index)} has label {label}; expected 0 to {len(self.class_names) - 1}: use a split in "
                    "which all images have labels"
                )
            return example["image"], np.int32(label)
        if len(label) > _MOST_LABELS:
            raise UserError(f"{self.name(index)} has {len(label)} labels; at most {_MOST_LABELS} are supported")
        return example["image"], np.pad(np.asarray(label, np.int32), (0, _MOST_LABELS - len(label)), constant_values=-1)

    def name(self, index: int) -> str:
        """Returns `FILE (DATA_SET SPLIT, INDEX)`; FILE is "example" if the record stores no name."""
        return self.records.name(index)


def _fingerprint_on_card(path: Path, class_names: Sequence[str]) -> str:
    """Returns the fingerprint in the card at `path`, or an empty string if there is no card.

    Raises:
      UserError: the card is damaged, or lists a different number of classes.
    """
    if not path.is_file():
        return ""
    card = read_card(path, fingerprint=str)
    classes = card.get("classes", class_names)
    if len(classes) != len(class_names):
        raise UserError(
            f"{path} lists {len(classes)} classes, but the metadata of the data set has {len(class_names)} names, so "
            "its labels are shifted: rename classes with an empty name or a line break, and prepare the data again"
        )
    return card["fingerprint"]
