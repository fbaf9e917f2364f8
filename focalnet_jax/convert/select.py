"""Selects one FocalNet in a file, which may contain several under different keys or prefixes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from focalnet_jax.convert.averages import separate_average
from focalnet_jax.convert.candidates import Candidate, find_candidates
from focalnet_jax.convert.parts import multiply_masks, refuse_foreign
from focalnet_jax.convert.take import Selected, take
from focalnet_jax.convert.tensors import Tensors
from focalnet_jax.errors import UserError

_AVERAGED = re.compile(r"(^|_)(ema|swa|avg|averaged?|polyak|shadow)(_|$)", re.IGNORECASE)
# mmengine's EMAHook and Lightning's WeightAveraging store averaged weights as "state_dict" and raw weights under a
# different key. By the key of the raw weights: further keys that only the same trainer writes.
_SWAPPED = {"ema_state_dict": ("message_hub", "meta"), "current_model_state": ("averaging_state",)}
_MOST_LISTED = 6
# Names that torch inserts around modules that are compiled, checkpointed or sharded separately.
_WRAPPERS = "_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module|_fpw_module"
_PARTS = (
    r"layers[._]\d+|(?:blocks|stages)\.\d+|stem|patch_embed|embeddings|downsample|modulation|mlp|head|classifier|norm"
)
_WRAPPED = re.compile(rf"(?<![^.])({_PARTS})(?:\.(?:{_WRAPPERS}))+(?=\.)")


def select(tensors: Tensors, source: str, which: str | None = None, head: str = "keep") -> Selected:
    """Returns the tensors of one FocalNet in a file.

    Args:
      tensors: all tensors of the file.
      source: name of the file in messages.
      which: "ema" for averaged weights, or a key or prefix. Required if the choice is ambiguous.
      head: "drop" if the caller will replace the classifier. A classifier that is not the format's own is then left out
        instead of used or rejected.

    Raises:
      UserError: there is no FocalNet, the choice is ambiguous, or a tensor of the chosen FocalNet cannot be read.
    """
    tensors, chosen, others, choice = choose(tensors, source, which)
    taken = take(chosen, others, tensors, source, head)
    own = () if which is not None else choice
    return dataclasses.replace(taken, notes=(*choice, *taken.notes), decisions=(*own, *taken.decisions))


def choose(
    tensors: Tensors, source: str, which: str | None = None
) -> tuple[Tensors, Candidate, list[Candidate], tuple[str, ...]]:
    """Chooses one FocalNet in a file. The arguments and errors are those of `select`.

    Returns:
      The tensors of the file, without the names of torch's wrappers, with pruned parameters multiplied by their masks,
      and with either the raw or the averaged weights of mmcv's EMAHook; the chosen FocalNet; all other FocalNets; and
      notes on the choice.
    """
    tensors, which = separate_average(multiply_masks(_unwrapped(tensors)), which)
    candidates = find_candidates([*tensors, *tensors.others])
    if not candidates:
        refuse_foreign(tensors, source)
    if not tensors:
        raise UserError(f"{source} contains no state dict; expected tensors by name, under any key")
    if not candidates:
        some = ", ".join(name[:100] for name in list(tensors)[:3])
        raise UserError(f"{source} contains no FocalNet weights: {len(tensors)} tensors such as {some or 'none'}")
    chosen, choice = _choose(candidates, tensors, source, which)
    return tensors, chosen, [other for other in candidates if other != chosen], choice


def _unwrapped(tensors: Tensors) -> Tensors:
    """Removes the names of torch's wrappers from the names of tensors, unless two names would become equal."""
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
        class_lists=tensors.class_lists,
        palettes=tensors.palettes,
        places={new: tensors.places.get(old, old) for new, old in names.items()},
    )


def _choose(
    candidates: Sequence[Candidate], tensors: Tensors, source: str, which: str | None
) -> tuple[Candidate, tuple[str, ...]]:
    """Returns the chosen candidate and notes on the choice."""
    listed = "; ".join(candidate.describe(tensors) for candidate in candidates[:_MOST_LISTED])
    averaged = [candidate for candidate in candidates if _is_averaged(candidate, candidates, tensors)]
    plain = _distinct([candidate for candidate in candidates if candidate not in averaged], tensors)
    choose = "choose one with --weights NAME (weights=NAME in Python, init_weights in a config)"
    if which is not None:
        by_average = which.lower() == "ema"
        named = averaged if by_average else _named(candidates, which)
        if len(named) != 1:
            expected = "FocalNet with averaged weights" if by_average else "FocalNet of that key or prefix"
            raise UserError(
                f"{source}: --weights {which}: expected one {expected}, found {len(named)}; the file contains {listed}"
            )
        several = len(candidates) > 1
        return named[0], (f"took {named[0].describe(tensors)}, as requested by --weights {which}",) if several else ()
    if len(plain) + len(averaged) == 1:
        return (plain + averaged)[0], (f"these are averaged weights, {candidates[0].key}",) if averaged else ()
    if len(plain) == 1 and len(averaged) == 1:
        if _swapped(candidates, tensors):
            kinds = f"averaged weights under {averaged[0].key}", f"weights before averaging, {plain[0].key}"
            return averaged[0], (f"took the {kinds[0]}, not the {kinds[1]}: use --weights {plain[0].key} for them",)
        where = plain[0].key or "the top level"
        return plain[0], (f"took {where}, not the averaged weights, {averaged[0].key}: use --weights ema for them",)
    raise UserError(f"{source} contains {len(candidates)} FocalNets: {listed}; {choose}")


def _distinct(candidates: Sequence[Candidate], tensors: Tensors) -> list[Candidate]:
    """Returns the distinct candidates. A model stored under two keys counts once."""
    found: dict[object, Candidate] = {}
    for candidate in candidates:
        places = {n.removeprefix(candidate.prefix): tensors.places.get(n, n) for n in tensors if candidate.holds(n)}
        found.setdefault((candidate.format, tuple(sorted(places.items(), key=str))), candidate)
    return list(found.values())


def _is_averaged(candidate: Candidate, candidates: Sequence[Candidate], tensors: Tensors) -> bool:
    if _swapped(candidates, tensors):
        return candidate.key.partition(".")[0] == "state_dict"
    return any(_AVERAGED.search(part) for part in candidate.key.split("."))


def _swapped(candidates: Sequence[Candidate], tensors: Tensors) -> bool:
    """Returns whether the trainer that wrote the file stores averaged weights under the key "state_dict"."""
    keys = {candidate.key.partition(".")[0] for candidate in candidates}
    top = {name.partition(".")[0] for name in (*tensors, *tensors.others)}
    return any({"state_dict", other} == keys and top & set(signs) for other, signs in _SWAPPED.items())


def _named(candidates: Sequence[Candidate], name: str) -> list[Candidate]:
    wanted = name.strip(".")
    exact = [candidate for candidate in candidates if candidate.key == wanted]
    return exact or [each for each in candidates if f".{wanted}.".lower() in f".{each.key}.".lower()]
