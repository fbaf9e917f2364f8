"""Decodes masks of semantic segmentation to class numbers `[H, W]` uint8, and pairs of an image and its mask."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from focalnet_jax.data.decode import PILLOWS_ERRORS, Picture, UnreadableImageError, decode, read_file
from focalnet_jax.data.formats import detect_type
from focalnet_jax.data.mask_files import COLOURED, UnreadableMaskError, open_mask
from focalnet_jax.data.pixels import numba_compiled
from focalnet_jax.data.png import decode_numbers, stored_palette

IGNORED = 255  # class number of pixels that count neither in the loss nor in metrics
MOST_CLASSES = 254  # so that 255 is never a class, even if the stored numbers begin with 1
_OUTSIDE = 254  # marks pixels with a stored number or colour that has no class
StoredMask = np.ndarray | bytes | str | Path  # integers `[H, W]`, encoded bytes, or the path of a file
Colour = tuple[int, int, int]

_ORIENTATION = 274  # tag of EXIF
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


@dataclass(frozen=True)
class MaskCoding:
    """The meaning of the values of stored masks.

    Attributes:
      num_classes: number of classes after `reduce_zero_label`.
      reduce_zero_label: whether the stored label 0 means ignored and the stored label n means class n - 1.
      colours: colour of each class, for masks that store colours; empty if masks store numbers.
      ignored: colours of ignored pixels.
    """

    num_classes: int
    reduce_zero_label: bool = False
    colours: tuple[Colour, ...] = ()
    ignored: tuple[Colour, ...] = ()

    @property
    def is_grey(self) -> bool:
        """Whether all colours are grey. Masks then store these grey levels, such as 0 and 255, instead of numbers."""
        return bool(self.colours) and all(len(set(colour)) == 1 for colour in self.colours + self.ignored)


def decode_pair(picture: Picture, stored: StoredMask, coding: MaskCoding) -> tuple[np.ndarray, np.ndarray]:
    """Decodes an image to `[H, W, 3]` uint8 and its mask to `[H, W]` uint8, in the orientation of the stored image.

    The EXIF orientation is not applied to the image, see `decode`. Most annotation programs apply it, so that the mask
    has the size of the turned image; such a mask is turned back. (mmsegmentation turns the image and never the mask.)

    Raises:
      UnreadableImageError: the image or the mask cannot be used, their sizes differ, or the EXIF orientation turns or
        mirrors the image without changing its size, so that the orientation of the mask is unknown.
      RunFailedError: the storage fails.
    """
    if not isinstance(picture, np.ndarray | bytes):
        picture = read_file(picture)
    image, mask = decode(picture), decode_mask(stored, coding)
    orientation = 1 if isinstance(picture, np.ndarray) else _orientation(picture)
    height, width = image.shape[:2]
    turns = orientation in _TURNED and height != width
    if orientation != 1 and not turns:
        raise UnreadableImageError(
            f"its EXIF orientation is {orientation}, and its mask may be drawn on the turned or on the stored "
            "image: store the turned image with orientation 1, or remove the orientation if the mask fits without it"
        )
    if turns and mask.shape == (width, height):
        mask = np.ascontiguousarray(_turned_back(mask, orientation))
    if mask.shape != (height, width):
        raise UnreadableMaskError(
            f"its mask{_named(stored)} has {mask.shape[1]}x{mask.shape[0]} pixels, the image {width}x{height}: store "
            "both with the same size"
        )
    return image, mask


def decode_mask(stored: StoredMask, coding: MaskCoding) -> np.ndarray:
    """Decodes a mask to class numbers `[H, W]` uint8, with `IGNORED` for ignored pixels.

    Palette masks, grey masks and arrays `[H, W]` of integers store numbers, with 255 for ignored pixels. Masks with
    several channels store colours. If all colours of the coding are grey, all masks except arrays store colours.
    Transparency is dropped.

    Raises:
      UnreadableMaskError: the mask cannot be decoded, its format is neither PNG nor TIFF and may change labels, or it
        contains a number or colour that is not in the class list.
      RunFailedError: the storage fails.
    """
    try:
        if isinstance(stored, np.ndarray):
            return _classes_of(stored, coding)
        return _decode(stored if isinstance(stored, bytes) else read_file(stored), coding)
    except UnreadableImageError as error:
        raise UnreadableMaskError(f"its mask{_named(stored)}: {error}") from error


def _named(stored: StoredMask) -> str:
    return "" if isinstance(stored, np.ndarray | bytes) else f" {stored}"


def _decode(encoded: bytes, coding: MaskCoding) -> np.ndarray:
    if not coding.is_grey and (numbers := decode_numbers(encoded)) is not None:
        return _classes_of(numbers, coding, stored_palette(encoded))
    image = open_mask(encoded, as_colours=coding.is_grey)
    if image.mode in COLOURED or coding.is_grey:
        if not coding.colours:
            raise UnreadableMaskError(
                "it stores colours; expected one number per pixel, or a class list with lines NAME RED GREEN BLUE, "
                "each colour once"
            )
        if image.mode.startswith("I"):  # 16 bits, which Pillow would scale
            return _classes_by_colour(np.repeat(np.asarray(image)[..., None], 3, axis=-1), coding)
        return _classes_by_colour(np.asarray(image.convert("RGB")), coding)
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3) if image.mode == "P" else None
    return _classes_of(np.asarray(image), coding, palette)


def _classes_of(numbers: np.ndarray, coding: MaskCoding, palette: np.ndarray | None = None) -> np.ndarray:
    """Returns the class numbers `[H, W]` uint8 of stored numbers `[H, W]`.

    If the mask has a palette, the stored numbers are indices of `palette`, `[N, 3]` uint8.
    """
    if numbers.ndim != 2:
        raise UnreadableMaskError(f"it has the shape {list(numbers.shape)}; expected [height, width]")
    if numbers.dtype.kind not in "bui":
        raise UnreadableMaskError(f"it has values of the type {numbers.dtype}; expected integers")
    if numbers.dtype != np.uint8:
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < 256:
            _refuse_labels(numbers, (numbers < 0) | (numbers > 255), coding)
        numbers = numbers.astype(np.uint8)
    first = int(coding.reduce_zero_label)
    meaning = np.full(256, _OUTSIDE, np.uint8)
    meaning[[*range(first), IGNORED]] = IGNORED
    meaning[first : first + coding.num_classes] = np.arange(coding.num_classes)
    classes, occurs = np.empty(numbers.shape, np.uint8), np.zeros(256, np.bool_)
    _translate(np.ascontiguousarray(numbers).reshape(-1), meaning, classes.reshape(-1), occurs)
    if palette is not None and coding.colours:
        _check_palette(palette, np.flatnonzero(occurs).tolist(), coding)
    if (meaning[occurs] == _OUTSIDE).any():
        _refuse_labels(numbers, classes == _OUTSIDE, coding)
    return classes


@numba_compiled
def _translate(numbers, meaning, classes, occurs):  # pragma: no cover - compiled
    """Translates `numbers` `[N]` to `classes` `[N]` by the table `meaning` `[256]`, and sets `occurs` `[256]`."""
    for i in range(numbers.size):
        number = numbers[i]
        classes[i] = meaning[number]
        occurs[number] = True


def _refuse_labels(numbers: np.ndarray, outside: np.ndarray, coding: MaskCoding) -> NoReturn:
    row, column = np.argwhere(outside)[0]
    first = int(coding.reduce_zero_label)
    ignored = "0 or 255" if first else "255"
    hint = ""
    if not first and numbers.max() == coding.num_classes:
        hint = ", or set --config.data.reduce_zero_label=True if 0 is not a class"
    raise UnreadableMaskError(
        f"it has the label {numbers[row, column]} (row {row}, column {column}; {np.count_nonzero(outside)} pixels with "
        f"such labels); expected {first} to {first + coding.num_classes - 1}, or {ignored} for ignored pixels: correct "
        f"the mask or the class list{hint}"
    )


@cache
def _codes(coding: MaskCoding) -> tuple[np.ndarray, np.ndarray]:
    """Returns the codes 65536 red + 256 green + blue of all colours, sorted, and the class number of each."""
    colours = np.array(coding.colours + coding.ignored) @ (65536, 256, 1)
    classes = np.array([*range(len(coding.colours)), *[IGNORED] * len(coding.ignored)], np.uint8)
    order = np.argsort(colours)
    return colours[order], classes[order]


def _classes_by_colour(pixels: np.ndarray, coding: MaskCoding) -> np.ndarray:
    """Returns the class numbers `[H, W]` uint8 of the colours `[H, W, 3]` of a mask."""
    sorted_codes, classes = _codes(coding)
    out = np.empty(pixels.shape[:2], np.uint8)
    unknown = _translate_colours(pixels.astype(np.int32, copy=False), sorted_codes, classes, out)
    if unknown:
        row, column = np.argwhere(out == _OUTSIDE)[0]
        colour = " ".join(map(str, pixels[row, column].tolist()))
        raise UnreadableMaskError(
            f"it has the colour {colour} (row {row}, column {column}; {unknown} pixels with such colours), which is "
            'not in the class list: add the colour to the list (with the name "ignored" if its pixels belong to no '
            "class), or correct the mask"
        )
    return out


@numba_compiled
def _translate_colours(pixels, sorted_codes, classes, out):  # pragma: no cover - compiled
    """Writes the class of every pixel `[H, W, 3]` to `out` `[H, W]`; returns the number of pixels without a class."""
    unknown, before, label = 0, -1, _OUTSIDE
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            code = np.int64(pixels[y, x, 0]) * 65536 + np.int64(pixels[y, x, 1]) * 256 + np.int64(pixels[y, x, 2])
            if code != before:
                place = np.searchsorted(sorted_codes, code)
                known = place < sorted_codes.size and sorted_codes[place] == code
                before, label = code, classes[place] if known else _OUTSIDE
            out[y, x] = label
            unknown += label == _OUTSIDE
    return unknown


def _check_palette(palette: np.ndarray, numbers: Sequence[int], coding: MaskCoding) -> None:
    """Raises `UnreadableMaskError` if the palette gives a stored number the colour of another class.

    This happens if a program converts an RGB mask to a palette mask, because it numbers the colours arbitrarily.
    """
    first = int(coding.reduce_zero_label)
    listed = {colour: number + first for number, colour in enumerate(coding.colours)}
    for number in numbers:
        colour = tuple(palette[number].tolist()) if number < len(palette) else None
        of = listed.get(colour, number)
        same = first <= number < len(coding.colours) + first and coding.colours[number - first] == colour
        if of != number and not same:
            raise UnreadableMaskError(
                f"the entry {number} of its palette has the colour {' '.join(map(str, colour))} of the label {of} in "
                "the class list: store the mask as RGB to read it by colours, or remove the colours from the class "
                "list to read it by numbers"
            )


def _orientation(encoded: bytes) -> int:
    """Returns the EXIF orientation that `decode` does not apply, from 2 to 8, or 1 if there is none."""
    kind, encoded = detect_type(encoded)
    if kind is None or kind.format in (None, "TIFF") or (kind.format == "JPEG" and b"Exif\0" not in encoded[: 2**17]):
        return 1  # Pillow turns TIFFs
    try:
        with Image.open(io.BytesIO(encoded), formats=(kind.format, "MPO")) as image:
            orientation = image.getexif().get(_ORIENTATION, 1)
    except PILLOWS_ERRORS:  # damaged metadata, which `decode` ignores
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _turned_back(mask: np.ndarray, orientation: int) -> np.ndarray:
    """Returns a mask of the turned image in the orientation of the stored image."""
    if orientation == 5:
        return mask.T
    if orientation == 7:
        return mask[::-1, ::-1].T
    return np.rot90(mask, 1 if orientation == 6 else -1)
