"""Which of a file's tensors are a FocalNet, under any key or prefix; what is left is counted and reported."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from focalnet_jax.convert.tables import TABLES
from focalnet_jax.convert.tensors import Tensors
from focalnet_jax.errors import UserError

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
_HEADS = {"microsoft": "head.", "timm": "head.", "huggingface": "classifier."}
_NORMS = {"microsoft": "norm", "timm": "norm", "huggingface": "focalnet.layernorm"}
_AVERAGED = re.compile(r"(^|_)(ema|swa|avg|averaged?|polyak|shadow)(_|$)", re.IGNORECASE)
# Trainers that store averaged weights as "state_dict" and the others elsewhere: mmengine's EMAHook, Lightning's
# WeightAveraging. By the key of the others, and a key that only these trainers write.
_SWAPPED = {"ema_state_dict": ("message_hub", "meta"), "current_model_state": ("averaging_state",)}
_STAGE = re.compile(r"(?:layers|encoder\.stages)\.(\d{1,4})\.(?:blocks|layers)\.0\.norm2(?:_post)?\.weight$")
_MOST_LISTED = 6
# Of parts that were compiled, checkpointed or sharded by themselves: what torch puts between their names.
_WRAPPERS = "_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module|_fpw_module"
_PARTS = (
    r"layers[._]\d+|(?:blocks|stages)\.\d+|stem|patch_embed|embeddings|downsample|modulation|mlp|head|classifier|norm"
)
_WRAPPED = re.compile(rf"(?<![^.])({_PARTS})(?:\.(?:{_WRAPPERS}))+(?=\.)")


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

    def describe(self, tensors: Tensors) -> str:
        """Key, format and number of tensors."""
        count = sum(name.startswith(self.prefix) for name in tensors)
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


@dataclass(frozen=True)
class Selected:
    """A FocalNet's tensors by its format's names."""

    tensors: Tensors
    format: str
    notes: tuple[str, ...]  # what a reader should know
    decisions: tuple[str, ...]  # those that change what is computed


def select(tensors: Tensors, source: str, which: str | None = None, head: str = "keep") -> Selected:
    """The FocalNet to take from a file.

    Args:
      tensors: all of the file's.
      source: the file, for messages.
      which: "ema" for averaged weights, or a key or prefix; needed where several could be meant.
      head: "drop" leaves a classifier of another form than FocalNet's.

    Raises:
      UserError: there is none, several could be meant, or one of its tensors cannot be read.
    """
    if not tensors:
        raise UserError(f"{source} holds no state dict; expected tensors by name, under any key")
    tensors = _unwrapped(tensors)
    candidates = find_candidates([*tensors, *tensors.others])
    if not candidates:
        some = ", ".join(name[:100] for name in list(tensors)[:3])
        raise UserError(f"{source}: these are no FocalNet weights: {len(tensors)} tensors such as {some or 'none'}")
    chosen, choice = _choose(candidates, tensors, source, which)
    others = [other for other in candidates if other != chosen]
    taken = _take(chosen, others, tensors, source, head, choice)
    return taken if which is None else dataclasses.replace(taken, decisions=taken.decisions[len(choice) :])


def _unwrapped(tensors: Tensors) -> Tensors:
    """Takes wrappers of FocalNet's parts off the names, unless two tensors would then have the same name."""
    names = {_WRAPPED.sub(r"\1", name): name for name in tensors}
    if len(names) < len(tensors) or list(names) == list(tensors):
        return tensors
    return Tensors(
        {new: tensors.shapes[old] for new, old in names.items()},
        {new: tensors.dtypes[old] for new, old in names.items()},
        lambda new: tensors[names[new]],
        tensors.notes,
        problems={new: tensors.problems[old] for new, old in names.items() if old in tensors.problems},
        others={_WRAPPED.sub(r"\1", name): what for name, what in tensors.others.items()},
        places={new: tensors.places.get(old, old) for new, old in names.items()},
    )


def _choose(
    candidates: Sequence[Candidate], tensors: Tensors, source: str, which: str | None
) -> tuple[Candidate, list[str]]:
    """The candidate to take, and what the reader should know of the choice."""
    listed = "; ".join(candidate.describe(tensors) for candidate in candidates[:_MOST_LISTED])
    averaged = [candidate for candidate in candidates if _is_averaged(candidate, candidates, tensors)]
    plain = _distinct([candidate for candidate in candidates if candidate not in averaged], tensors)
    choose = "choose one with --weights NAME (weights=NAME in Python, init_weights in a config)"
    if which is not None:
        named = averaged if which == "ema" else _named(candidates, which)
        if len(named) != 1:
            expected = "FocalNet with averaged weights" if which == "ema" else "FocalNet of that key or prefix"
            raise UserError(
                f"{source}: --weights {which}: expected one {expected}, found {len(named)}; it holds {listed}"
            )
        return named[0], [f"took {named[0].describe(tensors)} as --weights {which} says"] if len(candidates) > 1 else []
    if len(plain) + len(averaged) == 1:
        return (plain + averaged)[0], [f"these are averaged weights, {candidates[0].key}"] if averaged else []
    if len(plain) == 1 and len(averaged) == 1:
        if _swapped(candidates, tensors):
            kinds = f"averaged weights under {averaged[0].key}", f"those before averaging, {plain[0].key}"
            return averaged[0], [f"took the {kinds[0]} and left {kinds[1]}: --weights {plain[0].key} takes them"]
        where = plain[0].key or "the top level"
        return plain[0], [f"took {where} and left the averaged weights, {averaged[0].key}: --weights ema takes them"]
    raise UserError(f"{source} holds {len(candidates)} FocalNets: {listed}; {choose}")


def _distinct(candidates: Sequence[Candidate], tensors: Tensors) -> list[Candidate]:
    """Candidates that differ: one stored twice under two keys counts once."""
    found: dict[object, Candidate] = {}
    for candidate in candidates:
        places = {n.removeprefix(candidate.prefix): tensors.places.get(n, n) for n in tensors if _is_in(n, candidate)}
        found.setdefault((candidate.format, tuple(sorted(places.items(), key=str))), candidate)
    return list(found.values())


def _is_in(name: str, candidate: Candidate) -> bool:
    return name.startswith(candidate.prefix)


def _is_averaged(candidate: Candidate, candidates: Sequence[Candidate], tensors: Tensors) -> bool:
    if _swapped(candidates, tensors):
        return candidate.key.partition(".")[0] == "state_dict"
    return any(_AVERAGED.search(part) for part in candidate.key.split("."))


def _swapped(candidates: Sequence[Candidate], tensors: Tensors) -> bool:
    """Whether the trainer that wrote the file keeps averaged weights as "state_dict"."""
    keys = {candidate.key.partition(".")[0] for candidate in candidates}
    top = {name.partition(".")[0] for name in (*tensors, *tensors.others)}
    return any({"state_dict", other} == keys and top & set(signs) for other, signs in _SWAPPED.items())


def _named(candidates: Sequence[Candidate], name: str) -> list[Candidate]:
    wanted = name.strip(".")
    exact = [candidate for candidate in candidates if candidate.key == wanted]
    return exact or [candidate for candidate in candidates if f".{wanted}." in f".{candidate.key}."]


def _take(
    chosen: Candidate, others: Sequence[Candidate], tensors: Tensors, source: str, head: str, decisions: list[str]
) -> Selected:
    format = chosen.format
    longer = tuple(other.prefix for other in others if len(other.prefix) > len(chosen.prefix))
    inside = {_plain(chosen, name): name for name in tensors if _is_in(name, chosen) and not name.startswith(longer)}
    _check_readable(chosen, tensors, source, inside)
    kept = {
        rest: name for rest, name in inside.items() if not _foreign(rest, chosen.format, tensors.shapes[name], head)
    }
    added, norm_notes = _final_norm(format, inside, kept, tensors)
    used = set(kept.values())
    left = [name for name in tensors if name not in used]
    notes = list(decisions)
    if chosen.prefix:
        notes.append(f"prefix {chosen.prefix!r} taken off the names")
    entries = [name for name in tensors.others if _is_in(name, chosen) and "." not in name[len(chosen.prefix) :]]
    if entries:
        notes.append(f"{len(entries)} entries that are no tensors left, such as {entries[0][:100]}")
    if left:
        notes.append(_count_left(left, chosen))
    return Selected(tensors.renamed(kept, added), chosen.format, (*notes, *norm_notes), (*decisions, *norm_notes))


def _plain(candidate: Candidate, name: str) -> str:
    """A tensor's name as its format has it."""
    rest = name.removeprefix(candidate.prefix)
    if candidate.bare:
        return f"{_TRANSFORMERS}{rest}"
    return _FLAT_STAGE.sub(r"layers.\1.", rest, count=1) if candidate.format == "timm" else rest


def _known(name: str, format: str) -> bool:
    return any(row.pattern.fullmatch(name) for row in TABLES[format])


def _foreign(name: str, format: str, shape: tuple[int, ...], head: str) -> bool:
    """Whether a tensor beside a FocalNet's is certainly none that its classification computes with.

    Modules of other names, counters, what masked image modelling and detectors add. A parameter by itself, such as a
    position embedding, and whatever lies in FocalNet's own modules stays, and is refused where no table has it.
    """
    if _known(name, format):
        return False
    if head == "drop" and name.startswith(_HEADS[format]):
        return True
    own = {row.theirs.partition(".")[0] for row in TABLES[format]}
    first, dot, _ = name.partition(".")
    module = bool(dot) and first not in own
    return module or (not dot and int(np.prod(shape, dtype=object)) == 1) or name.endswith("embeddings.mask_token")


def _final_norm(
    format: str, inside: Mapping[str, str], kept: dict[str, str], tensors: Tensors
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Supplies the final norm that a backbone lacks: the norm of its last output, or a fresh one."""
    names = [f"{_NORMS[format]}.{part}" for part in ("weight", "bias")]
    if any(name in inside for name in names) or any(name.startswith(_HEADS[format]) for name in kept):
        return {}, []
    widths = {int(match[1]): tensors.shapes[old] for new, old in kept.items() if (match := _STAGE.search(new))}
    last = max(widths, default=0)
    for name, part in zip(names, ("weight", "bias"), strict=True):
        if f"norm{last}.{part}" in inside:
            kept[name] = inside[f"norm{last}.{part}"]
    if all(name in kept for name in names):
        return {}, [f"norm{last}, which the backbone has on its last output, taken as the final norm"]
    if len(widths.get(last, ())) != 1:
        return {}, []
    fresh = {names[0]: np.ones(widths[last], np.float32), names[1]: np.zeros(widths[last], np.float32)}
    return fresh, ["no final norm in the file: a fresh one (scale 1, bias 0)"]


def _check_readable(chosen: Candidate, tensors: Tensors, source: str, inside: Mapping[str, str]) -> None:
    """Raises `UserError` if a tensor of the FocalNet cannot be read."""
    for rest, name in inside.items():
        if name in tensors.problems and _known(rest, chosen.format):
            raise UserError(f"{source}: {name} {tensors.problems[name]}")
    for name, what in tensors.others.items():
        if _is_in(name, chosen) and _known(_plain(chosen, name), chosen.format):
            raise UserError(f"{source}: {name} is made by {what[:100]}; expected a tensor of plain data")


def _count_left(left: Sequence[str], chosen: Candidate) -> str:
    """How many tensors of which modules are not used."""
    counts: dict[str, int] = {}
    taken = chosen.key.split(".")
    for name in left:
        parts = name.split(".")
        common = next((i for i, (a, b) in enumerate(zip(parts, taken, strict=False)) if a != b), len(taken))
        group = "mask_token" if parts[-1] == "mask_token" else parts[min(common, len(parts) - 1)][:50]
        counts[group] = counts.get(group, 0) + 1
    listed = [f"{group} ({count})" for group, count in list(counts.items())[:_MOST_LISTED]]
    more = f" and {len(counts) - _MOST_LISTED} more" if len(counts) > _MOST_LISTED else ""
    return f"{len(left)} tensor{'s' * (len(left) > 1)} left: {', '.join(listed)}{more}"
