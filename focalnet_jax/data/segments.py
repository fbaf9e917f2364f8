"""Decodes, resizes, mirrors and crops the segments of objects. Bitmaps are equal to those of pycocotools.

A segment is either a list of polygons whose union is the object, each with the coordinates x1, y1, x2, y2, ... as an
array or list; or a run-length encoding `{"size": [height, width], "counts": ...}`. The counts are the lengths of
alternating runs of 0 and 1 down the columns, beginning with 0, as a list of integers or in COCO's compressed text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Size = tuple[int, int]  # height and width in pixels
Segment = Sequence[Any] | Mapping[str, Any]

LEAST_NUMBERS = 6  # smallest number of coordinates in a polygon, for three points
_DAMAGED = "a damaged run-length encoding"


class UnreadableSegmentError(ValueError):
    """Raised if the pixels of an object cannot be computed. The message is the reason."""


def bitmap(segment: Segment, size: Size) -> np.ndarray:
    """Returns the pixels of an object, `[H, W]` uint8 of 0 and 1, equal to those of pycocotools.

    Args:
      segment: polygons or run-length encoding. No polygons give an empty bitmap.
      size: height and width of the image.

    Raises:
      UnreadableSegmentError: the encoding is damaged or of another size, or a polygon is invalid, such as one with
        fewer than three points.
    """
    from hotcoco import mask  # takes time to import, and data without masks do not need it

    return np.ascontiguousarray(mask.decode(encoding_of(segment, size)))


def encoding_of(segment: Segment, size: Size) -> dict[str, Any]:
    """Returns the compressed run-length encoding of an object, equal to that of pycocotools; its counts are bytes.

    The arguments and errors are those of `bitmap`.
    """
    from hotcoco import mask  # see `bitmap`

    if problem := problem_of(segment, size):
        raise UnreadableSegmentError(problem)
    try:
        if isinstance(segment, Mapping):
            return _encoded(segment, size)
        if not len(segment):
            return mask.frPyObjects({"size": list(size), "counts": [size[0] * size[1]]}, *size)
        polygons = [np.asarray(polygon, np.float64).tolist() for polygon in segment]
        return mask.merge(mask.frPyObjects(polygons, *size))
    except (ValueError, TypeError, OverflowError) as error:
        raise UnreadableSegmentError(f"its pixels cannot be decoded: {' '.join(str(error).split())[:200]}") from error


def encode_bitmap(pixels: np.ndarray) -> dict[str, Any]:
    """Returns the compressed run-length encoding of a bitmap `[H, W]` uint8 of 0 and 1; its counts are a string."""
    from hotcoco import mask  # see `bitmap`

    encoded = mask.encode(np.asfortranarray(pixels, np.uint8))
    return {"size": list(pixels.shape), "counts": encoded["counts"].decode()}


def text_of_counts(counts: Sequence[int] | np.ndarray, size: Size) -> str:
    """Returns the compressed text of run lengths in an image of height and width `size`."""
    from hotcoco import mask  # see `bitmap`

    return mask.frPyObjects({"size": list(size), "counts": [int(count) for count in counts]}, *size)["counts"].decode()


def problem_of(segment: Any, size: Size) -> str:
    """Returns why a segment cannot be decoded, or an empty string."""
    if isinstance(segment, Mapping):
        counts, stated = segment.get("counts"), segment.get("size")
        if not isinstance(counts, list | str | bytes) or not isinstance(stated, list | tuple) or len(stated) != 2:
            return "a run-length encoding without counts or size"
        if tuple(stated) != tuple(size):
            return "a run-length encoding of another size"
        if not isinstance(counts, list):
            try:
                counts = compressed_counts(counts.encode() if isinstance(counts, str) else counts)
            except (UnreadableSegmentError, UnicodeEncodeError):
                return _DAMAGED
        whole = all(type(count) is int and count >= 0 for count in counts)
        return "" if whole and sum(counts) == size[0] * size[1] else _DAMAGED
    if not isinstance(segment, list | tuple):
        return "neither polygons nor a run-length encoding"
    return next(filter(None, map(problem_of_polygon, segment)), "")


def problem_of_polygon(polygon: Any) -> str:
    """Returns why a polygon cannot be used, or an empty string."""
    try:
        numbers = np.asarray(polygon, np.float64)
    except (TypeError, ValueError, OverflowError):
        return "a polygon that is not a list of numbers"
    if numbers.ndim != 1:
        return "a polygon that is not a list of numbers"
    if len(numbers) < LEAST_NUMBERS:
        return "a polygon of fewer than 3 points"
    if len(numbers) % 2:
        return "a polygon of an odd number of coordinates"
    return "" if np.isfinite(numbers).all() else "a polygon with coordinates that are not finite"


def resized_segment(segment: Segment, old: Size, new: Size) -> Segment:
    """Returns a segment after its image is resized from height and width `old` to `new`.

    Polygons are scaled; a run-length encoding takes the nearest pixels, like OpenCV's INTER_NEAREST.
    """
    if isinstance(segment, Mapping):
        return encode_bitmap(resized_bitmap(bitmap(segment, old), new))
    factors = np.array([new[1] / old[1], new[0] / old[0]])
    return [_points(polygon, lambda points: points * factors) for polygon in segment]


def resized_bitmap(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Returns a bitmap `[H, W]` resized to `size` by the nearest pixel, like OpenCV's INTER_NEAREST."""
    rows, columns = (
        np.minimum(np.floor(np.arange(new) * (1 / (new / old))).astype(np.int64), old - 1)
        for old, new in zip(pixels.shape, size, strict=True)
    )
    return np.ascontiguousarray(pixels[rows[:, None], columns])


def mirrored_segment(segment: Segment, size: Size) -> Segment:
    """Returns a segment after its image, of height and width `size`, is mirrored left to right."""
    if isinstance(segment, Mapping):
        return encode_bitmap(bitmap(segment, size)[:, ::-1])
    return [_points(polygon, lambda points: points * (-1, 1) + (size[1], 0)) for polygon in segment]


def cropped_segment(segment: Segment, old: Size, top: int, left: int, size: Size) -> Segment:
    """Returns a segment of a crop of an image.

    Polygons may extend beyond the crop; `bitmap` cuts them off.

    Args:
      segment: segment of the whole image.
      old: height and width of the image.
      top: first row of the crop.
      left: first column of the crop.
      size: height and width of the crop, which is inside the image.
    """
    if isinstance(segment, Mapping):
        return encode_bitmap(bitmap(segment, old)[top : top + size[0], left : left + size[1]])
    return [_points(polygon, lambda points: points - (left, top)) for polygon in segment]


def _points(polygon: Any, change: Any) -> np.ndarray:
    """Returns a polygon `[2 n]` whose points `[n, 2]` are changed by a function."""
    return change(np.asarray(polygon, np.float64).reshape(-1, 2)).reshape(-1)


def _encoded(segment: Mapping[str, Any], size: Size) -> dict[str, Any]:
    """Returns a run-length encoding whose counts are COCO's compressed text, as bytes."""
    from hotcoco import mask  # see `bitmap`

    counts = segment["counts"]
    if isinstance(counts, list):
        return mask.frPyObjects({"size": list(size), "counts": counts}, *size)
    return {"size": list(size), "counts": counts.encode() if isinstance(counts, str) else counts}


def compressed_counts(text: bytes) -> list[int]:
    """Returns the lengths of runs that COCO's compressed text encodes.

    Each character has five bits of a number. The first three numbers are lengths; every later number is the difference
    between its length and the second length before it.

    Raises:
      UnreadableSegmentError: the text is cut short or contains invalid characters.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 55:
            raise UnreadableSegmentError(_DAMAGED)
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)  # the sign
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift or any(count < 0 for count in counts):
        raise UnreadableSegmentError(_DAMAGED)
    return counts
