"""Reads class names from a user's text or JSON file."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

from focalnet_jax.data.class_lists import synset_of
from focalnet_jax.errors import UserError

EXPECTED = "one class per line, a JSON list, or an id2label object in JSON"
_MOST_BYTES = 2**24
_NUMBER = re.compile(r"\d{1,9}")
_SYNSET_LINE = re.compile(r"n\d{8}[ \t,]+\S")
_NUMBERED_LINE = re.compile(r"(\d{1,9})[ \t]*[:,;= \t][ \t]*(\S.*)")


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Returns the class names in a file, in the order of the classes.

    Formats:
      Text: one class per line. A line may also be `SYNSET<TAB>WORDS`; the name is then the synset id. If all lines
        start with numbers, such as `3: cat`, and the numbers are not ascending, the lines are sorted by number, and the
        numbers are removed.
      JSON list: the names. An entry may also be `[SYNSET, WORDS]`; the name is then the synset id.
      JSON object: a mapping from numbers to names, or from names to numbers. It may be nested under one of the keys
        `id2label` (as in a `config.json`), `label2id` and `class_to_idx`.
      Python: a list or dict with the same content, as printed by Python.

    Raises:
      UserError: the file cannot be read, or has a different format.
    """
    path = Path(path).expanduser()
    text = read_list(path)
    names = _listed(_parsed(path, text), path) if text.lstrip()[:1] in ("{", "[") else _lines(path, text)
    if not names:
        raise UserError(f"{path} contains no classes; expected {EXPECTED}")
    return tuple(names)


def read_list(path: Path) -> str:
    """Returns the text of a list of classes.

    Raises:
      UserError: the file cannot be read, is too large, or is not text.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path} has more than {_MOST_BYTES >> 20} MB; expected {EXPECTED}")
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        why = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise UserError(f"cannot read the classes in {path}: {why}; expected {EXPECTED}") from error


def _lines(path: Path, text: str) -> list[str]:
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if "" in lines and lines != [""]:
        raise UserError(f"line {lines.index('') + 1} of {path} is empty and would shift later classes: remove the line")
    return [_short(line) if _SYNSET_LINE.match(line) else line for line in _by_number(path, lines) if line]


def _by_number(path: Path, lines: list[str]) -> list[str]:
    """Sorts lines by their numbers and removes the numbers.

    The lines are unchanged if one of them is not numbered, or if the numbers are in ascending order. Otherwise, raises
    `UserError` if the numbers are not 0, 1, ... without gaps.
    """
    numbered = [match for match in map(_NUMBERED_LINE.fullmatch, lines) if match]
    numbers = [int(match[1]) for match in numbered]
    if len(numbers) < len(lines) or numbers == sorted(numbers):
        return lines
    names = dict(zip(numbers, (match[2] for match in numbered), strict=True))
    if sorted(numbers) != list(range(len(lines))):
        raise UserError(f"the numbers of the lines in {path} are not 0, 1, ... without gaps: number the lines from 0")
    return [names[number] for number in range(len(lines))]


def _short(line: str) -> str:
    return synset_of(line[:9]) or line


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text.strip())  # a dict or list as Python prints it
        if not isinstance(value, dict | list):  # a set has no order
            raise ValueError(type(value).__name__)
        str(value)  # raises ValueError for a number with too many digits to be printed
        return value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON; expected {EXPECTED}") from error


def _listed(value: Any, path: Path) -> list[str]:
    if isinstance(value, dict):
        inner = next((value[key] for key in ("id2label", "label2id", "class_to_idx") if key in value), value)
        value = _ordered(inner, path)
    names = [_name(each) for each in value]
    if None in names:
        raise UserError(f"{path}: {str(value[names.index(None)])[:60]!r} is not a class name; expected {EXPECTED}")
    return names


def _ordered(value: Any, path: Path) -> list[Any]:
    """Returns the names in a JSON object, sorted by their numbers.

    Raises `UserError` if the numbers are not 0, 1, ... without gaps.
    """
    pairs = list(value.items()) if isinstance(value, dict) else []
    if pairs and all(type(number) is int for _, number in pairs):
        pairs = [(number, name) for name, number in pairs]
    numbered = {int(key): name for key, name in pairs if _NUMBER.fullmatch(str(key))}
    if not numbered or len(numbered) != len(pairs) or sorted(numbered) != list(range(len(pairs))):
        raise UserError(f"the class numbers in {path} are not 0, 1, ... without gaps; expected one name for each")
    return [numbered[number] for number in range(len(pairs))]


def _name(value: Any) -> str | None:
    """Returns the class name in a JSON value, or None if the value is not a name.

    The name is a string, or the synset id of a pair `[SYNSET, WORDS]`.
    """
    if isinstance(value, list | tuple) and value and isinstance(value[0], str) and synset_of(value[0]) == value[0]:
        return value[0]
    if not isinstance(value, str):
        return None
    try:
        value.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate, which cannot be printed or written
        return None
    return value.strip() or None
