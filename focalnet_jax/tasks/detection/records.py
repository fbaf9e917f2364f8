"""Reads images with objects from a prepared data set, see `data.prepare.objects`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from focalnet_jax.data.card import CARD, read_card
from focalnet_jax.data.coco.annotations import Annotations, check_annotations
from focalnet_jax.data.coco.entries import check_categories
from focalnet_jax.data.coco.parsing import fields_of
from focalnet_jax.data.coco.splits import MIN_SIDE, ground_truth, images_file, kept_images
from focalnet_jax.data.decode import Picture, UnreadableImageError
from focalnet_jax.data.instances import Instances
from focalnet_jax.data.source import fingerprint_of
from focalnet_jax.data.tfds_records import TfdsRecords
from focalnet_jax.errors import UserError, abbreviated
from focalnet_jax.storage.address import CACHE

_COMMAND = "python -m focalnet_jax.data.prepare coco"


class CocoRecords:
    """The images and objects of a split of a prepared data set, with the same examples as `CocoFolder`.

    Args:
      path: see `TfdsRecords`.
      split: see `TfdsRecords`.
      cache: see `TfdsRecords`.
      training: whether to leave out images without annotations, and images with a side shorter than `min_side`.
      min_side: smallest side in pixels of a training image.
      masks: whether to read polygons and run-length encodings.

    Attributes:
      class_names: names of the classes.
      category_ids: ids of the classes in the original annotation file.
      sizes: height and width of each image, `[n, 2]` int32.
      image_ids: ids of the images, `[n]` int64.
      has_masks: whether polygons and run-length encodings are read and exist.
      note: lines about annotations and images that are left out or changed; empty if there are none.
      fingerprint: text that differs between different data.

    Raises:
      UserError: see `TfdsRecords`; or the records lack images or annotations, no image can be used for training, or a
        file of the data set is missing or damaged.
    """

    def __init__(
        self,
        path: str | None,
        split: str,
        cache: str = CACHE,
        *,
        training: bool = False,
        min_side: int = MIN_SIDE,
        masks: bool = True,
    ):
        def check(features: tfds.features.FeaturesDict) -> None:
            if "image" not in features or "annotations" not in features:
                raise UserError(
                    f"{path} has the features {', '.join(features)}; expected image and annotations, as {_COMMAND} "
                    "writes them"
                )

        self._records = TfdsRecords(path, split, cache, check)
        name = split.partition("[")[0]
        with self._records.errors_name_bucket():
            card_file = self._records.folder / CARD
            card = read_card(card_file, categories=list, masks=dict, fingerprint=str)
            self._classes = check_categories(card["categories"], str(card_file))
            images = _read_images(self._records.folder / images_file(name), self._records)
        self.class_names, self.category_ids = self._classes.names, self._classes.ids
        self.has_masks = masks and bool(card["masks"].get(name))
        self._names = images["names"]
        sizes, ids = np.array(images["sizes"], np.int32).reshape(-1, 2), np.array(images["ids"], np.int64)
        self._places, notes = kept_images(
            sizes, np.array(images["annotations"], np.int64), self._names, training, min_side, str(path)
        )
        self.sizes, self.image_ids = sizes[self._places], ids[self._places]
        unseen = [name_ for name_, counts in card["classes"].items() if not counts.get(name)]
        if unseen and training:
            notes.append(f"{len(unseen)} classes have no objects: {abbreviated(unseen)}")
        problems = card.get("problems", {}).get(name, {})
        notes += [f"{reason}: {count:,} annotations" for reason, count in problems.items()]
        self.note = "\n".join(f"{path}: {line}" for line in notes)
        self.fingerprint = fingerprint_of(
            [*self._records.identity, card["fingerprint"], str(training and min_side), str(self.has_masks)]
        )

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[Picture, Instances]:
        example = self._records[int(self._places[index])]
        annotations = self._annotations(example["annotations"], index)
        return example["image"], annotations.of(0, index, tuple(self.sizes[index].tolist()))

    def _annotations(self, text: bytes | str, index: int) -> Annotations:
        """Returns the annotations in `text`, the JSON text in the record of the image `index`.

        Raises:
          UnreadableImageError: the annotations are damaged.
        """
        try:
            rows = [fields_of(entry) for entry in json.loads(text)]
            found, _ = check_annotations(
                rows,
                self.image_ids[index : index + 1],
                self.sizes[index : index + 1],
                self.category_ids,
                "its record",
                masks=self.has_masks,
                expected=self.has_masks,
            )
        except (UserError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UnreadableImageError(f"its annotations are damaged: {' '.join(str(error).split())[:200]}") from error
        return found

    def name(self, index: int) -> str:
        """Returns the file name of an image with the split and the index of its record."""
        return self._records.name(int(self._places[index]))

    def ground_truth(self) -> dict[str, Any]:
        """Returns the content of a COCO file for an evaluation of this split. Reads all records of the split.

        As in COCO's files, the annotations include crowds and objects that are not used for training.

        Raises:
          UserError: a record is damaged.
        """
        images, objects = [], []
        for index, (place, number, (height, width)) in enumerate(
            zip(self._places.tolist(), self.image_ids.tolist(), self.sizes.tolist(), strict=True)
        ):
            try:
                found = self._annotations(self._records[place]["annotations"], index)
            except UnreadableImageError as error:
                raise UserError(f"cannot read {self.name(index)} ({error}): prepare the data again") from error
            images.append({"id": number, "file_name": self._names[place], "height": height, "width": width})
            objects.append(found.entries(0, images[-1], self.category_ids))
        return ground_truth(images, objects, self._classes.entries())


def _read_images(path: Path, records: TfdsRecords) -> dict[str, list[Any]]:
    """Returns the ids, sizes, names and numbers of annotations of the images in `records`, a split or a slice of it.

    Raises:
      UserError: the file is missing, damaged, or does not match the records.
    """
    columns = ("ids", "sizes", "names", "annotations")
    try:
        content = json.loads(path.read_bytes())
        starts, total = {}, 0
        for name, count in content["shards"].items():
            starts[name], total = total, total + count
        rows = []
        for shard in records.identity[1:]:
            name, skip, take = shard.rsplit(" ", 2)
            first = starts[name] + int(skip)
            rows.extend(range(first, first + int(take)))
        found = {column: [content[column][row] for row in rows] for column in columns}
        if len(rows) == len(records) and all(len(content[column]) == total for column in columns):
            return found
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    raise UserError(f"{path} is missing or damaged: copy it again, or prepare the data again with {_COMMAND}")
