"""Fuzzes masks of every coding through `decode_mask`, and compares them with the pixels that Pillow decodes."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from focalnet_jax.data.decode import PILLOWS_ERRORS
from focalnet_jax.data.masks import IGNORED, MaskCoding, decode_mask
from fuzz.mutations import Rng, mutate_bytes, pick
from fuzz.runner import Family, WrongAnswerError
from tests.data.masks import GREY, PALETTE, RGB, raw_png

_COLOURS = ((10, 20, 30), (0, 0, 0), (200, 0, 7), (90, 90, 90))
_CODINGS = (
    MaskCoding(4),
    MaskCoding(3, reduce_zero_label=True),
    MaskCoding(254, reduce_zero_label=True),
    MaskCoding(4, colours=_COLOURS, ignored=((255, 255, 255),)),
    MaskCoding(2, colours=((0, 0, 0), (255, 255, 255))),
)


@dataclass(frozen=True)
class Mask:
    """An undamaged mask and its stored numbers `[H, W]`, or colours `[H, W, 3]`."""

    content: bytes
    stored: np.ndarray


def prepare(_: Path) -> list[Mask]:
    """Returns small masks of every coding."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 4, (9, 13))
    masks = [
        Mask(raw_png(values, bits, kind, rng.bytes(3 * 256) if kind == PALETTE else b""), values)
        for bits in (1, 2, 4, 8, 16)
        for kind in (GREY, PALETTE)
        if (bits, kind) != (16, PALETTE)
        for values in (numbers % 2**bits,)
    ]
    ignored = np.where(rng.random((9, 13)) < 0.2, 255, numbers)
    masks += [Mask(raw_png(ignored), ignored), Mask(raw_png(numbers % 2 * 255), numbers % 2 * 255)]
    colours = np.array([*_COLOURS, (255, 255, 255)])[rng.integers(0, 5, (9, 13))]
    masks.append(Mask(raw_png(colours, 8, RGB), colours))
    for kind in (np.uint8, np.uint16):
        buffer = io.BytesIO()
        Image.fromarray(numbers.astype(kind)).save(buffer, "TIFF")
        masks.append(Mask(buffer.getvalue(), numbers))
    return masks


def case(masks: list[Mask], rng: Rng, folder: Path) -> None:
    """Decodes a mask, damaged or not, as bytes or from a file."""
    mask, coding = pick(rng, masks), pick(rng, _CODINGS)
    damaged = rng.random() < 0.8
    content = mutate_bytes(mask.content, rng) if damaged else mask.content
    (folder / "mask.png").write_bytes(content)
    decoded = decode_mask(pick(rng, (content, folder / "mask.png")), coding)
    if decoded.dtype != np.uint8 or decoded.ndim != 2:
        raise WrongAnswerError(f"{decoded.dtype} {decoded.shape}")
    if ((decoded >= coding.num_classes) & (decoded != IGNORED)).any():
        raise WrongAnswerError(f"classes {np.unique(decoded)} of {coding}")
    grey = bool(coding.colours) and all(len(set(colour)) == 1 for colour in coding.colours + coding.ignored)
    stored = _stored(content, grey) if damaged or grey else mask.stored
    if stored is not None and not np.array_equal(decoded, _expected(stored, coding, grey)):
        raise WrongAnswerError(f"{decoded}; expected {_expected(stored, coding, grey)}")


def _stored(content: bytes, grey: bool) -> np.ndarray | None:
    """Returns the numbers or colours that Pillow decodes, or None if it rejects the file or changes the values.

    If `grey`, all colours of the coding are grey, and grey and palette masks store colours.
    """
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except PILLOWS_ERRORS:
        return None
    if grey and image.mode in ("L", "1", "P", "RGB"):
        return np.asarray(image.convert("RGB")).astype(int)
    if image.mode in ("L", "1") and content[:4] == b"\x89PNG" and content[24] < 8:
        return np.round(np.asarray(image.convert("L")) * ((2 ** content[24] - 1) / 255)).astype(int)
    return np.asarray(image).astype(int) if image.mode in ("L", "P", "I;16", "RGB") else None


def _expected(stored: np.ndarray, coding: MaskCoding, grey: bool) -> np.ndarray:
    """Returns the class numbers, pixel by pixel."""
    if stored.ndim == 3 or grey:
        classes = {colour: number for number, colour in enumerate(coding.colours)}
        classes |= dict.fromkeys(coding.ignored, IGNORED)
        pixels = stored if stored.ndim == 3 else np.repeat(stored[..., None], 3, axis=-1)
        return np.array([[classes.get(tuple(pixel), -1) for pixel in row] for row in pixels.tolist()])
    first = int(coding.reduce_zero_label)
    return np.where((stored == IGNORED) | (stored < first), IGNORED, stored - first)


FAMILY = Family("masks", 3000, prepare, case)
