"""Finds FocalNets among the tensors of a file, and the names of their tensors in each format."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from focalnet_jax.convert.tables import TABLES
from focalnet_jax.convert.tensors import Tensors

# The first parameter of each format. ViTs have some of these names too, but no modulation blocks.
_SIGNS = {
    "microsoft": "patch_embed.proj.weight",
    "timm": "stem.proj.weight",
    "huggingface": "embeddings.patch_embeddings.projection.weight",
}
# timm's models with features_only=True have names such as layers_0.blocks instead of layers.0.blocks.
_MODULATION = re.compile(r"(.*?)(?:layers[._]\d+\.blocks|encoder\.stages\.\d+\.layers)\.\d+\.modulation\..*")
_FLAT_STAGE = re.compile(r"layers_(\d+)\.")
_TRANSFORMERS = "focalnet."  # prefix of the backbone in transformers' classifier
_LAST_NORM = re.compile(r"(?:layers|encoder\.stages)\.(\d{1,4})\.(?:blocks|layers)\.0\.norm2(?:_post)?\.weight$")


@dataclass(frozen=True)
class Candidate:
    """A FocalNet among the tensors of a file."""

    format: str  # a key of `TABLES`
    prefix: str  # prefix of the FocalNet's tensor names in the file
    bare: bool = False  # True for transformers' FocalNet without a classifier, whose names lack the prefix "focalnet."

    @property
    def key(self) -> str:
        """The prefix without its trailing dot, by which users select the candidate."""
        return self.prefix.rstrip(".")

    def holds(self, name: str) -> bool:
        """Returns whether a tensor name starts with the prefix."""
        return name.startswith(self.prefix)

    def enclosing(self) -> Iterator[str]:
        """Yields the prefixes of the enclosing modules and containers, innermost first; the last is empty."""
        parts = self.key.split(".") if self.key else []
        for count in reversed(range(len(parts))):
            yield "".join(f"{part}." for part in parts[:count])

    def plain_name(self, name: str) -> str:
        """Maps a tensor's name in the file to its name in the format's table (`TABLES`)."""
        rest = name.removeprefix(self.prefix)
        if self.bare:
            return f"{_TRANSFORMERS}{rest}"
        return _FLAT_STAGE.sub(r"layers.\1.", rest, count=1) if self.format == "timm" else rest

    def describe(self, tensors: Tensors) -> str:
        """Returns key, format and number of tensors, for messages."""
        count = sum(map(self.holds, tensors))
        return f"{self.key or 'the top level'} ({self.format}, {count} tensors)"


def find_candidates(names: Sequence[str]) -> list[Candidate]:
    """Returns all FocalNets among tensors with these names, in order of appearance."""
    with_blocks = {match[1] for match in map(_MODULATION.fullmatch, names) if match}
    found = []
    for name in names:
        for format, sign in _SIGNS.items():
            prefix = name.removesuffix(sign)
            if prefix == name or prefix[-1:] not in ("", ".") or prefix not in with_blocks:
                continue
            if format != "huggingface":
                found.append(Candidate(format, prefix))
            elif prefix.endswith(_TRANSFORMERS) and prefix[: -len(_TRANSFORMERS)][-1:] in ("", "."):
                found.append(Candidate(format, prefix.removesuffix(_TRANSFORMERS)))
            else:
                found.append(Candidate(format, prefix, bare=True))
    return found


def is_known(name: str, format: str) -> bool:
    """Returns whether the table of a format contains this tensor name."""
    return any(row.pattern.fullmatch(name) for row in TABLES[format])


def last_stage(shapes: dict[str, tuple[int, ...]]) -> tuple[int, tuple[int, ...]]:
    """Returns the index of the last stage and the shape of norm2 in the stage's first block; (0, ()) without a norm2.

    Args:
      shapes: shapes of tensors by their names in the format.
    """
    norms = {int(match[1]): shape for name, shape in shapes.items() if (match := _LAST_NORM.search(name))}
    last = max(norms, default=0)
    return last, norms.get(last, ())
