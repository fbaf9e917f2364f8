"""Mutates bytes and JSON in ways that often break parsers."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np

Rng = np.random.Generator
_NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
)


def pick(rng: Rng, choices: Any) -> Any:
    """Returns a random choice."""
    choices = list(choices)
    return choices[int(rng.integers(len(choices)))]


def mutate_bytes(content: bytes, rng: Rng, times: int | None = None) -> bytes:
    """Returns the bytes with one to eight changes, such as changed values, deletions, repetitions or insertions."""
    for _ in range(int(rng.integers(1, 9)) if times is None else times):
        content = pick(rng, _CHANGES)(content, rng)
    return content


def _place(content: bytes, rng: Rng) -> int:
    # Half of the changes are near the beginning, where headers are.
    return int(rng.integers(0, max(1, min(len(content), 64) if rng.random() < 0.5 else len(content))))


def _flip(content: bytes, rng: Rng) -> bytes:
    return overwrite(content, _place(content, rng), bytes([int(rng.integers(256))]))


def _bit(content: bytes, rng: Rng) -> bytes:
    place = _place(content, rng)
    return overwrite(content, place, bytes([content[place] ^ 1 << int(rng.integers(8))])) if content else content


def _number(content: bytes, rng: Rng) -> bytes:
    width = pick(rng, (1, 2, 4, 8))
    value = pick(rng, (*_NUMBERS, len(content))) % 256**width
    return overwrite(content, _place(content, rng), value.to_bytes(width, pick(rng, ("little", "big"))))


def _cut(content: bytes, rng: Rng) -> bytes:
    return content[: _place(content, rng)] if rng.random() < 0.3 else content


def _remove(content: bytes, rng: Rng) -> bytes:
    place = _place(content, rng)
    return content[:place] + content[place + int(rng.integers(1, 33)) :]


def _insert(content: bytes, rng: Rng) -> bytes:
    place = _place(content, rng)
    return content[:place] + rng.bytes(int(rng.integers(1, 33))) + content[place:]


def _repeat(content: bytes, rng: Rng) -> bytes:
    place = _place(content, rng)
    piece = content[place : place + int(rng.integers(1, 200))]
    return content[:place] + piece * int(rng.integers(2, 6)) + content[place:]


def _swap(content: bytes, rng: Rng) -> bytes:
    first, second = sorted((_place(content, rng), _place(content, rng)))
    return content[:first] + content[second : second + 16] + content[first:second] + content[second + 16 :]


def _blank(content: bytes, rng: Rng) -> bytes:
    place, size = _place(content, rng), int(rng.integers(1, 512))
    return overwrite(content, place, pick(rng, (b"\0", b"\xff")) * min(size, max(0, len(content) - place)))


_CHANGES = (_flip, _flip, _bit, _bit, _number, _number, _number, _cut, _remove, _insert, _repeat, _swap, _blank)


def overwrite(content: bytes, place: int, new: bytes) -> bytes:
    """Returns the bytes with `new` written over them at offset `place`. The length does not change."""
    return (content[:place] + new + content[place + len(new) :])[: max(len(content), 1)]


_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 224, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "a", "224", "true", "\0", "\u2028", "\ud800", "../../x", "x" * 5000, "é", [], {}, [[]], [None], {"": None}),
    *([1, 2], [0, 0], [-1, 1], [224, 192], [0.5, 0.5, 0.5], [0.5], ["a"], {"height": 1}, {"shortest_edge": 256}),
)  # fmt: skip


def mutate_json(value: Any, rng: Rng) -> Any:
    """Returns a copy of a JSON value with one to three entries replaced, removed, repeated, added or nested."""
    value = copy.deepcopy(value)
    for _ in range(int(rng.integers(1, 4))):
        value = _mutate_node(value, rng)
    return value


def _any_value(rng: Rng) -> Any:
    return copy.deepcopy(pick(rng, _VALUES))


def _mutate_node(value: Any, rng: Rng) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = pick(rng, value)
        match int(rng.integers(6)):
            case 0:
                del value[key]
            case 1:
                value[pick(rng, ("", "a", "model_type", key + " ", key.upper(), "\0", "x" * 300))] = _any_value(rng)
            case 2:
                value[pick(rng, value)] = copy.deepcopy(value[key])
            case _:
                value[key] = _mutate_node(value[key], rng)
        return value
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = int(rng.integers(len(value)))
        match int(rng.integers(5)):
            case 0:
                del value[place]
            case 1:
                value.insert(place, _any_value(rng))
            case 2:
                value *= 2
            case _:
                value[place] = _mutate_node(value[place], rng)
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.5:
        return pick(
            rng, (-value, value + 1, value * 2, value / 2 if abs(value) < 10**300 else 0.5, str(value)[:400], [value])
        )
    return _any_value(rng)


def dump_json(value: Any, rng: Rng) -> bytes:
    """Returns a value as JSON, which is occasionally invalid or not in UTF-8."""
    text = json.dumps(value)
    match int(rng.integers(20)):
        case 0:
            return mutate_bytes(text.encode(), rng)
        case 1:
            return b"\xef\xbb\xbf" + text.encode()
        case 2:
            return text.encode("utf-16")
        case 3:
            return text[:-1].encode()
        case 4:
            return b"[" * 100_000 + text.encode()
        case 5:
            return b""
    return text.encode(errors="surrogatepass")
