"""The classifier of a FocalNet that is the backbone of a larger module, as mmpretrain and many scripts build it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from focalnet_jax.convert.candidates import Candidate, last_stage
from focalnet_jax.convert.tensors import Tensors
from focalnet_jax.errors import UserError

HEADS = {"microsoft": "head", "timm": "head.fc", "huggingface": "classifier"}
_CLASSIFIERS = re.compile(r"(cls_?|last_)?(head|heads|classifier|classification_head|fc|linear|logits|fc_cls)", re.I)
# What lies beside a backbone and a classifier and does not stand between them: what training keeps, what only it uses.
_ASIDE = re.compile(
    r"data_preprocessor|(pre)?process\w*|normali\w+|transforms?|\w*optim\w*|\w*sched\w*|(grad_)?scaler|amp|rng\w*"
    r"|random\w*|(\w+_)?ema(_\w+)?|args|meta|epoch|(global_)?step|loops|callbacks|hparams|hyper_parameters"
    r"|\w*criterion\w*|\w*loss\w*|(train|val|test|valid|eval)_\w+|\w*metrics?|\w*accuracy\w*|(best_)?acc\d?"
    r"|augment\w*|mixup\w*|cutmix\w*|aux(iliary)?(_\w+)?|attacker",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Found:
    """A classifier, and what a reader should know of it."""

    names: dict[str, str] = field(default_factory=dict)  # theirs by what the format calls them
    added: dict[str, np.ndarray] = field(default_factory=dict)  # a bias of zeros where it has none
    decisions: tuple[str, ...] = ()


def find_classifier(
    chosen: Candidate, outside: Sequence[str], kept: Mapping[str, str], tensors: Tensors, source: str, *, whole: bool
) -> Found:
    """Returns the one linear layer that classifies by a backbone's pooled output, where its format does not name it.

    Args:
      chosen: the backbone.
      outside: names of tensors that are not a FocalNet's.
      kept: the backbone's tensors, by its format's names.
      tensors: all of the file's.
      source: the file, for messages.
      whole: whether the backbone has its final norm; a classifier was not trained behind a fresh one.

    Raises:
      UserError: there are two to choose from, or it cannot be read.
    """
    width = last_stage({name: tensors.shapes[theirs] for name, theirs in kept.items()})[1][:1]
    root = f"{HEADS[chosen.format].partition('.')[0]}."
    own = [name for rest, name in kept.items() if rest.startswith(root)]
    if own and f"{HEADS[chosen.format]}.weight" not in kept:  # put into an nn.Sequential, such as behind a dropout
        linear = _linear(own, tensors)
        return _taken(linear, chosen, tensors, source) if _fits(linear, width, tensors) else Found()
    for scope in chosen.enclosing():
        modules = _modules(outside, scope, tensors)
        behind = _behind(chosen, scope, modules)
        if behind:
            linear = {scope + name: _linear(modules[name], tensors) for name in behind}
            fitting = {name: layer for name, layer in linear.items() if _fits(layer, width, tensors)}
            if not fitting or own:
                return _left(linear, fitting, own, tensors, chosen, source)
            if len(fitting) > 1:
                _refuse_several(fitting, tensors, source)
            (name,) = fitting
            between = [each for each in modules if scope + each != name and not _ASIDE.fullmatch(each)]
            if between or not whole:
                why = f"{scope}{between[0]} may stand before it" if between else "the backbone has no final norm"
                return Found(decisions=(f"the classifier {name} was left: {why}",))
            return _taken(fitting[name], chosen, tensors, source)
    return Found()


def _modules(names: Sequence[str], scope: str, tensors: Tensors) -> dict[str, list[str]]:
    """Tensors by the module of `scope` that holds them, without counters."""
    modules: dict[str, list[str]] = {}
    for name in names:
        counts = name.endswith("bias") or np.prod(tensors.shapes[name], dtype=object) > 1
        if name.startswith(scope) and counts:
            modules.setdefault(name[len(scope) :].partition(".")[0], []).append(name)
    return modules


def _behind(chosen: Candidate, scope: str, modules: Mapping[str, list[str]]) -> list[str]:
    """Modules that may classify: by their name, or behind the backbone in an `nn.Sequential`."""
    own = chosen.prefix[len(scope) :].partition(".")[0]
    later = [name for name in modules if own.isdecimal() and name.isdecimal() and int(name) > int(own)]
    return [name for name in modules if name in later or _CLASSIFIERS.fullmatch(name)]


def _left(
    linear: Mapping[str, Sequence[str]],
    fitting: Mapping[str, Sequence[str]],
    own: Sequence[str],
    tensors: Tensors,
    chosen: Candidate,
    source: str,
) -> Found:
    """Says why no module was taken; raises `UserError` where one would do as well as the backbone's own classifier."""
    if not own:
        return Found(
            decisions=(f"{next(iter(linear))} was left: it is no linear layer on the backbone's pooled output",)
        )
    if fitting:
        _refuse_several(fitting | {f"{chosen.prefix}{HEADS[chosen.format]}": own}, tensors, source)
    outputs = tensors.shapes[own[0]][:1]
    after = [name for name, layer in linear.items() if _fits(layer, outputs, tensors)]
    return Found(decisions=tuple(f"{name} was left: it takes the classifier's outputs" for name in after[:1]))


def _refuse_several(found: Mapping[str, Sequence[str]], tensors: Tensors, source: str) -> NoReturn:
    sizes = ", ".join(f"{name} ({tensors.shapes[layer[0]][0]} classes)" for name, layer in found.items())
    raise UserError(
        f"{source} holds {len(found)} classifiers for one FocalNet: {sizes}; --head drop takes none, or save it with "
        "the right one alone"
    )


def _taken(linear: Sequence[str], chosen: Candidate, tensors: Tensors, source: str) -> Found:
    for name in linear:
        if name in tensors.problems:
            raise UserError(f"{source}: {name} {tensors.problems[name]}")
    theirs = HEADS[chosen.format]
    names = dict(zip((f"{theirs}.weight", f"{theirs}.bias"), linear, strict=False))
    outputs = tensors.shapes[linear[0]][0]
    added = {} if len(linear) > 1 else {f"{theirs}.bias": np.zeros(outputs, np.float32)}
    return Found(names, added, (f"{linear[0].rpartition('.')[0]} taken as the classifier, {outputs} classes",))


def _fits(linear: Sequence[str], width: tuple[int, ...], tensors: Tensors) -> bool:
    return bool(linear) and tensors.shapes[linear[0]][1:] == width


def _linear(names: Sequence[str], tensors: Tensors) -> list[str]:
    """Weight and bias of a module that holds one linear layer and nothing else; the weight alone, or nothing."""
    by_part = {name.rpartition(".")[2]: name for name in names}
    weight, bias = by_part.get("weight"), by_part.get("bias")
    if weight is None or len(tensors.shapes[weight]) != 2 or len(names) > 2:
        return []
    if len(names) == 1:
        return [weight]
    same = bias is not None and bias.rpartition(".")[0] == weight.rpartition(".")[0]
    return [weight, bias] if same and tensors.shapes[bias] == tensors.shapes[weight][:1] else []
