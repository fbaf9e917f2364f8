"""Patterns of file names: *, ?, [...], ** across folders, {a,b}, and the numbered parts {0000..1023} of WebDataset."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST = 1_000_000  # largest number of names for a range such as {0..9}; the rest of the range is ignored


def is_pattern(name: str) -> bool:
    """Returns whether a name contains a wildcard: `*`, `?`, `[` or `{`."""
    return any(character in name for character in "*?[{")


def expand_braces(pattern: str) -> Iterator[str]:
    """Yields the names that a pattern with braces means, such as x1 and x2 for x{1,2}, and 08, 09, 10 for {08..10}."""
    found = _BRACES.search(pattern)
    numbers = found and _RANGE.fullmatch(found[1])
    if not found or not (numbers or "," in found[1]):
        yield pattern
        return
    parts = found[1].split(",")
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        parts = (f"{number:0{len(numbers[1])}d}" for number in range(first, min(last + 1, first + _MOST)))
    for part in parts:
        yield from expand_braces(pattern[: found.start()] + part + pattern[found.end() :])


def matches(pattern: str, path: str) -> bool:
    """Returns whether a pattern matches the path of a file, or the path of a folder above the file."""
    return bool(_compiled(pattern.strip("/").removeprefix("./")).fullmatch(path))


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(f"(?:{_regex(pattern)})(?:/.*)?", re.DOTALL)
    except re.error:  # such as [z-a]
        return re.compile(f"{re.escape(pattern)}(?:/.*)?", re.DOTALL)


def _regex(pattern: str) -> str:
    """Returns a pattern as a regular expression."""
    found = _BRACES.search(pattern)
    if found and (_RANGE.fullmatch(found[1]) or "," in found[1]):
        inner = "|".join(map(_regex, expand_braces(found[0])))
        return _regex(pattern[: found.start()]) + f"(?:{inner})" + _regex(pattern[found.end() :])
    parts = []
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\[!?[^\]]+\]|.", pattern, re.DOTALL):
        if token == "**/":
            parts.append("(?:.*/)?")
        elif token == "**":
            parts.append(".*")
        elif token == "*":
            parts.append("[^/]*")
        elif token == "?":
            parts.append("[^/]")
        elif token.startswith("[") and len(token) > 1:
            inner = token[1:-1].replace("\\", r"\\").replace("[", r"\[")
            parts.append(f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]")
        else:
            parts.append(re.escape(token))
    return "".join(parts)
