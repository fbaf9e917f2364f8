"""Where among tensors a FocalNet lies, and what its format calls them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from focalnet_jax.convert.tables import TABLES
from focalnet_jax.convert.tensors import Tensors

# The first parameter of each format. ViTs have some of them too, but no blocks with a modulation.
_SIGNS = {
    "microsoft": "patch_embed.proj.weight",
    "timm": "stem.proj.weight",
    "huggingface": "embeddings.patch_embeddings.projection.weight",
}
# timm's features_only models write layers_0 for layers.0
_MODULATION = re.compile(r"(.*?)(?:layers[._]\d+\.blocks|encoder\.stages\.\d+\.layers)\.\d+\.modulation\..*")
_FLAT_STAGE = re.compile(r"layers_(\d+)\.")
_TRANSFORMERS = "focalnet."  # before the backbone's names in transformers' classifier
_LAST_NORM = re.compile(r"(?:layers|encoder\.stages)\.(\d{1,4})\.(?:blocks|layers)\.0\.norm2(?:_post)?\.weight$")


@dataclass(frozen=True)
class Candidate:
    """A whole FocalNet among the tensors of a file."""

    format: str
    prefix: str  # before its names in the file
    bare: bool = False  # transformers' backbone without the prefix that a classifier gives it

    @property
    def key(self) -> str:
        """What a user names it by."""
        return self.prefix.rstrip(".")

    def holds(self, name: str) -> bool:
        """Whether a tensor of this name lies below its prefix."""
        return name.startswith(self.prefix)

    def enclosing(self) -> Iterator[str]:
        """The prefixes of the modules and containers around it, from the inside out, the last one empty."""
        parts = self.key.split(".") if self.key else []
        for count in reversed(range(len(parts))):
            yield "".join(f"{part}." for part in parts[:count])

    def plain_name(self, name: str) -> str:
        """A tensor's name as its format has it."""
        rest = name.removeprefix(self.prefix)
        if self.bare:
            return f"{_TRANSFORMERS}{rest}"
        return _FLAT_STAGE.sub(r"layers.\1.", rest, count=1) if self.format == "timm" else rest

    def describe(self, tensors: Tensors) -> str:
        """Key, format and number of tensors."""
        count = sum(map(self.holds, tensors))
        return f"{self.key or 'the top level'} ({self.format}, {count} tensors)"


def find_candidates(names: Sequence[str]) -> list[Candidate]:
    """Every FocalNet among tensors of these names, in their order."""
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
    """Whether a format has a parameter of this name."""
    return any(row.pattern.fullmatch(name) for row in TABLES[format])


def last_stage(shapes: dict[str, tuple[int, ...]]) -> tuple[int, tuple[int, ...]]:
    """The number of the last stage among tensors by their format's names, and the shape of a norm of it."""
    norms = {int(match[1]): shape for name, shape in shapes.items() if (match := _LAST_NORM.search(name))}
    last = max(norms, default=0)
    return last, norms.get(last, ())
