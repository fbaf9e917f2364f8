"""Extracts the tensors of one FocalNet from a file, and counts the unused tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from focalnet_jax.convert.candidates import Candidate, is_known, last_stage
from focalnet_jax.convert.classifiers import HEADS, find_classifier
from focalnet_jax.convert.normalizers import FoundNormalization, find_normalization
from focalnet_jax.convert.parts import is_quantized, refuse_parts
from focalnet_jax.convert.tables import TABLES
from focalnet_jax.convert.tensors import Tensors
from focalnet_jax.errors import UserError

_NORMS = {"microsoft": "norm", "timm": "norm", "huggingface": "focalnet.layernorm"}
_MOST_LISTED = 6


@dataclass(frozen=True)
class Selected:
    """Tensors of one FocalNet, by their names in `format`."""

    tensors: Tensors
    format: str
    notes: tuple[str, ...]  # for the user, one line each
    decisions: tuple[str, ...]  # those of the notes that affect the model's outputs
    normalization: FoundNormalization | None  # by a layer before the FocalNet; None without such a layer


def take(chosen: Candidate, others: Sequence[Candidate], tensors: Tensors, source: str, head: str) -> Selected:
    """Returns the tensors of a FocalNet and of its classifier, and the normalization of images in the file.

    Args:
      chosen: the FocalNet.
      others: all other FocalNets in the file.
      tensors: all tensors of the file.
      source: name of the file in messages.
      head: treatment of the classifier, see `select`.

    Raises:
      UserError: a tensor of the FocalNet cannot be read, or several classifiers qualify.
    """
    format = chosen.format
    longer = tuple(other.prefix for other in others if len(other.prefix) > len(chosen.prefix))
    own = [name for name in tensors if chosen.holds(name) and not name.startswith(longer)]
    inside = {chosen.plain_name(name): name for name in own}
    _check_readable(chosen, tensors, source, inside, head)
    around = [name for name in tensors if not any(_belongs(name, other, chosen) for other in others)]
    normalization = find_normalization(chosen, around, tensors)
    normalized_by = set(normalization.names if normalization else ())
    kept = {
        rest: name
        for rest, name in inside.items()
        if name not in normalized_by and not _foreign(rest, format, tensors.shapes[name], head)
    }
    added, decisions = _final_norm(format, inside, kept, tensors)
    outside = [name for name in around if name not in own and name not in normalized_by]
    if head != "drop":
        found = find_classifier(chosen, outside, kept, tensors, source, whole=not added)
        moved = set(found.names.values())
        kept = {rest: name for rest, name in kept.items() if name not in moved} | found.names
        added |= found.added
        decisions += found.decisions
    used = {*kept.values(), *normalized_by}
    left = [name for name in tensors if name not in used]
    notes = []
    if chosen.prefix:
        notes.append(f"prefix {chosen.prefix!r} removed from the names")
    entries = [name for name in tensors.others if chosen.holds(name) and "." not in name[len(chosen.prefix) :]]
    if entries:
        notes.append(f"{len(entries)} entries that are not tensors left out, such as {entries[0][:100]}")
    if left:
        notes.append(_count_left(left, chosen))
    return Selected(tensors.renamed(kept, added), format, (*notes, *decisions), tuple(decisions), normalization)


def _belongs(name: str, other: Candidate, chosen: Candidate) -> bool:
    """Returns whether a tensor belongs to the FocalNet `other`.

    If `other` is inside `chosen`, no tensor belongs to `other`. If `chosen` is inside `other`, only tensors with names
    in the table of the format of `other` belong to `other`.
    """
    if not other.holds(name):
        return False
    return not chosen.holds(other.prefix) and (
        not chosen.prefix.startswith(other.prefix) or is_known(other.plain_name(name), other.format)
    )


def _foreign(name: str, format: str, shape: tuple[int, ...], head: str) -> bool:
    """Returns whether a tensor below a FocalNet's prefix is left out, because it is certainly not used.

    These are tensors of modules that FocalNet lacks, single values outside any module, mask tokens and, with `head`
    "drop", tensors of a classifier that is not the format's own. All other tensors are kept. The conversion fails if
    the format's table lacks one of them, such as a position embedding or an unknown tensor of a block.
    """
    if is_known(name, format):
        return False
    if head == "drop" and name.startswith(f"{HEADS[format].partition('.')[0]}."):
        return True
    own = {row.key.partition(".")[0] for row in TABLES[format]}
    first, dot, _ = name.partition(".")
    module = bool(dot) and first not in own
    return module or (not dot and int(np.prod(shape, dtype=object)) == 1) or name.endswith("embeddings.mask_token")


def _final_norm(
    format: str, inside: Mapping[str, str], kept: dict[str, str], tensors: Tensors
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Adds the norm of a backbone's last output to `kept` if the backbone has neither a final norm nor a classifier.

    Returns:
      The arrays of a new norm by name if the file has neither norm, otherwise {}; and notes for the user.
    """
    names = [f"{_NORMS[format]}.{part}" for part in ("weight", "bias")]
    head = f"{HEADS[format].partition('.')[0]}."
    if any(name in inside for name in names) or any(name.startswith(head) for name in kept):
        return {}, []
    last, width = last_stage({new: tensors.shapes[old] for new, old in kept.items()})
    for name, part in zip(names, ("weight", "bias"), strict=True):
        if f"norm{last}.{part}" in inside:
            kept[name] = inside[f"norm{last}.{part}"]
    if all(name in kept for name in names):
        return {}, [f"norm{last}, the norm of the backbone's last output, taken as the final norm"]
    if len(width) != 1:
        return {}, []
    fresh = {names[0]: np.ones(width, np.float32), names[1]: np.zeros(width, np.float32)}
    return fresh, ["no final norm in the file: added a new one (scale 1, bias 0)"]


def _check_readable(chosen: Candidate, tensors: Tensors, source: str, inside: Mapping[str, str], head: str) -> None:
    """Raises `UserError` if a tensor of the FocalNet cannot be read."""
    refuse_parts([rest for rest in inside if not _foreign(rest, chosen.format, (0,), head)], source)
    for rest, name in inside.items():
        if name in tensors.problems and is_known(rest, chosen.format):
            raise UserError(f"{source}: {name} {tensors.problems[name]}")
    for name, what in tensors.others.items():
        if chosen.holds(name) and is_known(chosen.plain_name(name), chosen.format):
            kind = ", quantized" if is_quantized(what) else ""
            raise UserError(f"{source}: {name} is stored as {what[:100]}{kind}; expected a tensor of plain data")


def _count_left(left: Sequence[str], chosen: Candidate) -> str:
    """Returns a note with the number of unused tensors, in total and in each of the first modules."""
    counts: dict[str, int] = {}
    taken = chosen.key.split(".")
    for name in left:
        parts = name.split(".")
        common = next((i for i, (a, b) in enumerate(zip(parts, taken, strict=False)) if a != b), len(taken))
        group = "mask_token" if parts[-1] == "mask_token" else parts[min(common, len(parts) - 1)][:50]
        counts[group] = counts.get(group, 0) + 1
    listed = [f"{group} ({count})" for group, count in list(counts.items())[:_MOST_LISTED]]
    more = f" and {len(counts) - _MOST_LISTED} more" if len(counts) > _MOST_LISTED else ""
    return f"{len(left)} tensor{'s' * (len(left) > 1)} left out: {', '.join(listed)}{more}"
