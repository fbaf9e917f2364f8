"""Reads images with masks from a prepared data set, see `data.prepare.pairs`."""

from __future__ import annotations

import numpy as np
import tensorflow_datasets as tfds

from focalnet_jax.data.card import CARD, read_card
from focalnet_jax.data.decode import Picture
from focalnet_jax.data.masks import MOST_CLASSES, StoredMask
from focalnet_jax.data.segment_classes import SegmentClasses, read_segment_classes
from focalnet_jax.data.source import fingerprint_of
from focalnet_jax.data.tfds_records import TfdsRecords
from focalnet_jax.errors import UserError
from focalnet_jax.storage.address import CACHE


class PairRecords:
    """The images and masks of a split of a TFDS data set, see `TfdsRecords`.

    Args:
      path: see `TfdsRecords`.
      split: see `TfdsRecords`.
      cache: see `TfdsRecords`.
      classes: file with the classes, see `read_segment_classes`; None for the classes of the data set.
      reduce_zero_label: whether the stored label 0 means ignored; None: the value in the card of the data set, or else
        False.

    Attributes:
      class_names: names of the classes.
      palette: colours of the classes, `[K, 3]` uint8, or None.
      coding: coding of the masks, for `decode_pair`.

    Raises:
      UserError: see `TfdsRecords`; or the data set has no images or masks, `classes` has a different number of classes,
        there are too many classes, the card is damaged, or `reduce_zero_label` contradicts the card.
    """

    size = None  # images may have different sizes

    def __init__(
        self,
        path: str | None,
        split: str,
        cache: str = CACHE,
        classes: str | None = None,
        reduce_zero_label: bool | None = None,
    ):
        names: list[str] = []

        def check(features: tfds.features.FeaturesDict) -> None:
            stated = getattr(features["mask"], "num_classes", None) if "mask" in features else None
            if "image" not in features or not stated:
                raise UserError(
                    f"{path} has the features {', '.join(features)}; expected image, and mask with class names, as "
                    "python -m focalnet_jax.data.prepare ade20k writes them"
                )
            names.extend(features["mask"].names)

        self.records = TfdsRecords(path, split, cache, check, encoded=("image", "mask", "instances"))
        card = {}
        if (self.records.folder / CARD).is_file():
            with self.records.errors_name_bucket():
                card = read_card(self.records.folder / CARD, fingerprint=str)
        stated = card.get("reduce_zero_label", False)
        reduce = stated if reduce_zero_label is None else reduce_zero_label
        if stated and not reduce:
            raise UserError(
                f"data.reduce_zero_label=False, but 0 is not a class in {path}: remove --config.data.reduce_zero_label"
            )
        listed = SegmentClasses(tuple(names[1:] if reduce else names), _palette(card))
        if classes is not None:
            given = read_segment_classes(classes)
            if len(given.names) != len(listed.names):
                raise UserError(
                    f"{classes} has {len(given.names)} classes, but the masks of {path} have {len(listed.names)}: give "
                    "one name for each class of the masks"
                )
            listed = given
        if len(listed.names) > MOST_CLASSES:
            raise UserError(f"{path} has {len(listed.names)} classes; at most {MOST_CLASSES} are supported")
        self.class_names, self.palette = listed.names, listed.palette
        self.coding = SegmentClasses(listed.names).coding(reduce)  # prepared masks store numbers
        self.fingerprint = fingerprint_of(
            [*self.records.identity, *self.class_names, str(reduce), card.get("fingerprint", "")]
        )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Picture, StoredMask]:
        example = self.records[index]
        return example["image"], example["mask"]

    def name(self, index: int) -> str:
        """Returns the file name stored in the record with the split and the index."""
        return self.records.name(index)


def _palette(card: dict) -> tuple[tuple[int, int, int], ...]:
    """Returns the colours in a card, or an empty tuple if the card has no valid colours."""
    colours = np.array(card.get("palette", ()), object)
    valid = colours.ndim == 2 and colours.shape[1] == 3 and all(type(v) is int and 0 <= v < 256 for v in colours.flat)
    return tuple(map(tuple, colours.tolist())) if valid else ()
