"""Checks annotations in COCO's format, and keeps them as arrays.

Objects of unknown images or classes, and objects without a valid box, are left out. As in mmdetection's CocoDataset,
training does not use objects that are marked `ignore`, have an area of at most 0, are narrower or lower than one pixel,
or are outside the image. If masks are read, training does not use objects without usable polygons or encoding either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from focalnet_jax.data.coco.packed import PackedSegments
from focalnet_jax.data.coco.problems import CHANGED, LEFT_OUT, UNUSED, Problems
from focalnet_jax.data.instances import Instances
from focalnet_jax.data.segments import problem_of, problem_of_polygon
from focalnet_jax.errors import UserError


@dataclass(frozen=True)
class Annotations:
    """The objects of a data set, sorted by image.

    Attributes:
      starts: index of the first object of each image, then the number of all objects, `[images + 1]`.
      ids: ids of the annotations, `[n]` int64.
      labels: class numbers, `[n]` int32.
      boxes: x, y, width and height as in the file, `[n, 4]` float64.
      areas: areas in square pixels, `[n]` float64.
      crowd: whether each object is a crowd, `[n]` bool.
      ignored: whether the file marks each object `ignore`, `[n]` bool.
      used: whether training uses each object, `[n]` bool.
      segments: for each object, its usable polygons or its encoding, or None without usable ones. The attribute is None
        if masks are not read or the data set has none.
    """

    starts: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray
    used: np.ndarray
    segments: Sequence[Any] | None

    def __len__(self) -> int:
        return len(self.ids)

    def counts(self) -> np.ndarray:
        """Returns the number of objects in each image."""
        return np.diff(self.starts)

    def of(self, place: int, index: int, size: tuple[int, int]) -> Instances:
        """Returns the objects of an image that training uses, with boxes clipped to the image.

        Args:
          place: number of the image in these annotations.
          index: index of the image in its source.
          size: height and width of the image.
        """
        rows = np.arange(self.starts[place], self.starts[place + 1])
        rows = rows[self.used[rows]]
        corners = self.boxes[rows].copy()
        with np.errstate(over="ignore"):  # boxes may end far beyond the image, and areas be infinite then
            corners[:, 2:] += corners[:, :2]
            areas = self.areas[rows].astype(np.float32)
        boxes = np.clip(corners, 0, [size[1], size[0]] * 2).astype(np.float32)
        segments = None
        if self.segments is not None:
            segments = [self.segments[row] for row in rows.tolist()]
        return Instances(index, boxes, self.labels[rows], self.crowd[rows], areas, self.ids[rows], segments)

    def entries(self, place: int, image: Mapping[str, Any], category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """Returns all objects of an image as entries of a COCO file.

        If masks are read, an object without usable polygons or encoding has an empty mask.

        Args:
          place: number of the image in these annotations.
          image: entry of the image in a COCO file.
          category_ids: ids of the classes.
        """
        entries = []
        for row in range(self.starts[place], self.starts[place + 1]):
            entry = {
                "id": int(self.ids[row]),
                "image_id": image["id"],
                "category_id": category_ids[self.labels[row]],
                "bbox": self.boxes[row].tolist(),
                "area": float(self.areas[row]),
                "iscrowd": int(self.crowd[row]),
            }
            if self.ignored[row]:
                entry["ignore"] = 1
            if self.segments is not None:
                segment = self.segments[row]
                if segment is None:
                    segment = {"size": [image["height"], image["width"]], "counts": [image["height"] * image["width"]]}
                entry["segmentation"] = segment if isinstance(segment, dict) else [part.tolist() for part in segment]
            entries.append(entry)
        return entries


def check_annotations(
    rows: Sequence[tuple[Any, ...]],
    image_ids: np.ndarray,
    sizes: np.ndarray,
    category_ids: Sequence[int],
    name: str,
    *,
    masks: bool,
    expected: bool = False,
) -> tuple[Annotations, Problems]:
    """Returns the annotations of a file, and the problems found in them.

    Args:
      rows: the annotations, see `Parsed.annotations`.
      image_ids: ids of the images, `[images]`.
      sizes: height and width of the images, `[images, 2]`.
      category_ids: ids of the classes.
      name: path of the file, for messages.
      masks: whether to check and keep polygons and encodings.
      expected: whether other images of the data set have masks. If not, a file in which no object has a mask is read as
        a data set without masks.

    Raises:
      UserError: an id, image_id or category_id is not an integer of 64 bits, or annotations have the same id.
    """
    problems = Problems()
    ids, images, categories = (
        _integers(rows, field, title, name) for field, title in enumerate(("id", "image_id", "category_id"))
    )
    _refuse_repeated(ids, "annotations", name)
    order = np.argsort(image_ids, kind="stable")
    place = _find(images, image_ids[order])
    known_image = place >= 0
    by_id = np.argsort(np.asarray(category_ids), kind="stable")
    label = _find(categories, np.asarray(category_ids)[by_id])
    boxes = _boxes(rows)
    finite = np.isfinite(boxes).all(axis=1)
    kept = known_image & (label >= 0) & finite
    problems.add(LEFT_OUT, "unknown image_id", ids[~known_image])
    for unknown in np.unique(categories[known_image & (label < 0)]).tolist():
        problems.add(LEFT_OUT, f"unknown category_id {unknown}", ids[known_image & (categories == unknown)])
    problems.add(LEFT_OUT, "bbox is not four finite numbers", ids[known_image & (label >= 0) & ~finite])
    chosen = np.flatnonzero(kept)
    where = order[place[chosen]]
    chosen = chosen[np.argsort(where, kind="stable")]
    where = np.sort(where, kind="stable")
    areas, guessed = _areas(rows, chosen, boxes[chosen])
    problems.add(CHANGED, "no finite area: taken from the box", ids[chosen[guessed]])
    found = Annotations(
        starts=np.searchsorted(where, np.arange(len(image_ids) + 1)),
        ids=ids[chosen],
        labels=by_id[label[chosen]].astype(np.int32),
        boxes=boxes[chosen],
        areas=areas,
        crowd=np.array([bool(rows[row][5]) for row in chosen.tolist()], bool),
        ignored=np.array([bool(rows[row][6]) for row in chosen.tolist()], bool),
        used=np.ones(len(chosen), bool),
        segments=[rows[row][7] or None for row in chosen.tolist()] if masks else None,
    )
    found = replace(found, used=_used(found, sizes[where], problems))
    if found.segments is not None:
        found = _with_segments(found, sizes[where], problems, expected)
    return found, problems


def _used(found: Annotations, sizes: np.ndarray, problems: Problems) -> np.ndarray:
    """Returns whether training uses each object, before masks are checked, `[n]` bool; adds reasons to `problems`."""
    x, y, width, height = found.boxes.T
    inside_x = np.clip(np.minimum(x + width, sizes[:, 1]) - np.maximum(x, 0), 0, None)
    inside_y = np.clip(np.minimum(y + height, sizes[:, 0]) - np.maximum(y, 0), 0, None)
    used = np.ones(len(found), bool)
    for reason, wrong in (
        ("marked ignore", found.ignored),
        ("width or height is not positive", (width <= 0) | (height <= 0)),
        ("area is not positive", found.areas <= 0),
        ("narrower or lower than 1 pixel", (width < 1) | (height < 1)),
        ("outside of the image", inside_x * inside_y == 0),
    ):
        problems.add(UNUSED, reason, found.ids[used & wrong])
        used &= ~wrong
    # Boxes of the official files extend beyond the image by less than this, because coordinates are rounded.
    out = np.max([-x, -y, x + width - sizes[:, 1], y + height - sizes[:, 0]], axis=0) > 0.02
    problems.add(CHANGED, "box limited to the image", found.ids[used & out])
    return used


def _with_segments(found: Annotations, sizes: np.ndarray, problems: Problems, expected: bool) -> Annotations:
    """Returns the annotations without unusable polygons; `used` is False for objects without usable segments.

    Adds both to `problems`. If no object has a segment and `expected` is False, `segments` is None.
    """
    if not expected and not any(found.segments):
        return replace(found, segments=None)
    used, segments = found.used.copy(), list(found.segments)
    for row, segment in enumerate(segments):
        reasons = _reasons(segment, tuple(sizes[row].tolist()))
        if not reasons:
            continue
        if isinstance(segment, list | tuple) and len(reasons) < len(segment):
            segments[row] = [polygon for polygon in segment if not _quick_problem(polygon)]
            done, reason = CHANGED, f"removed {reasons[0]}"
        else:
            segments[row], done, reason = None, UNUSED, reasons[0]
        if used[row]:
            problems.add(done, reason, [found.ids[row]])
        used[row] &= done != UNUSED
    return replace(found, used=used, segments=PackedSegments(segments))


def _reasons(segment: Any, size: tuple[int, int]) -> list[str]:
    """Returns what is wrong with a segment: one reason per unusable polygon; for others, at most one reason."""
    if segment is None:
        return ["no segmentation"]
    if isinstance(segment, list | tuple):
        return [problem for problem in map(_quick_problem, segment) if problem]
    return list(filter(None, [problem_of(segment, size)]))


def _quick_problem(polygon: Any) -> str:
    """Returns the result of `problem_of_polygon`, but faster for a valid polygon of type `array.array`."""
    if type(polygon).__name__ == "array" and len(polygon) >= 6 and not len(polygon) % 2 and math.isfinite(sum(polygon)):
        return ""
    return problem_of_polygon(polygon)


def _integers(rows: Sequence[tuple[Any, ...]], field: int, title: str, name: str) -> np.ndarray:
    """Returns a field of all annotations, `[n]` int64.

    Raises:
      UserError: a value is missing or not an integer.
    """
    values = [row[field] for row in rows]
    wrong = next((place for place, value in enumerate(values) if type(value) is not int), None)
    if wrong is not None:
        stated = "has no" if values[wrong] is None else "has the"
        value = "" if values[wrong] is None else f" {ascii(values[wrong])[:80]}"
        raise UserError(f"{name}: annotation number {wrong} {stated} {title}{value}; expected an integer")
    try:
        return np.array(values, np.int64)
    except OverflowError as error:
        raise UserError(f"{name}: an annotation has a {title} beyond 64 bits; expected smaller integers") from error


def _refuse_repeated(ids: np.ndarray, kind: str, name: str) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        repeated = values[counts > 1]
        raise UserError(
            f"{name}: {len(repeated)} ids occur for several {kind}, such as {repeated[0]}: number the {kind} uniquely"
        )


def _find(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Returns the index of each value in the sorted array `ordered`, or -1 if it is missing, `[n]`."""
    if not len(ordered):
        return np.full(len(values), -1)
    place = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return np.where(ordered[place] == values, place, -1)


def _boxes(rows: Sequence[tuple[Any, ...]]) -> np.ndarray:
    """Returns the boxes of all annotations, `[n, 4]` float64; NaN for boxes that are not four numbers."""
    values = [row[3] for row in rows]
    try:
        boxes = np.array(values, np.float64) if values else np.zeros((0, 4))
        if boxes.shape == (len(values), 4):
            return boxes
    except (TypeError, ValueError, OverflowError):
        pass
    return np.array([_box(value) for value in values], np.float64)


def _box(value: Any) -> tuple[float, ...]:
    return tuple(map(_number, value)) if isinstance(value, list) and len(value) == 4 else (math.nan,) * 4


def _number(value: Any) -> float:
    """Returns a number as float, NaN for other values."""
    try:
        return float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        return math.nan


def _areas(rows: Sequence[tuple[Any, ...]], chosen: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the areas, `[n]` float64, and which of them are areas of boxes because the file has no finite area."""
    areas = np.array([_number(rows[row][4]) for row in chosen.tolist()], np.float64)
    guessed = ~np.isfinite(areas)
    with np.errstate(over="ignore"):
        areas[guessed] = np.nan_to_num(boxes[guessed, 2] * boxes[guessed, 3])  # replaces infinity
    return areas, guessed
