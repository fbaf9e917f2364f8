"""Finds the classifier of a FocalNet that is the backbone of a larger module, as in mmpretrain and many scripts."""

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
# Modules and entries that never process features between backbone and classifier: training state and training modules.
_ASIDE = re.compile(
    r"data_preprocessor|(pre)?process\w*|normali\w+|transforms?|\w*optim\w*|\w*sched\w*|(grad_)?scaler|amp|rng\w*"
    r"|random\w*|(\w+_)?ema(_\w+)?|args|meta|epoch|(global_)?step|loops|callbacks|hparams|hyper_parameters"
    r"|\w*criterion\w*|\w*loss\w*|(train|val|test|valid|eval)_\w+|\w*metrics?|\w*accuracy\w*|(best_)?acc\d?"
    r"|augment\w*|mixup\w*|cutmix\w*|aux(iliary)?(_\w+)?|attacker",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class FoundClassifier:
    """The tensors of a classifier, and notes for the user."""

    names: dict[str, str] = field(default_factory=dict)  # name in the file by name in the format
    added: dict[str, np.ndarray] = field(default_factory=dict)  # a bias of zeros, by name, if the layer has no bias
    decisions: tuple[str, ...] = ()  # notes that affect the model's outputs, one line each


def find_classifier(
    chosen: Candidate, outside: Sequence[str], kept: Mapping[str, str], tensors: Tensors, source: str, *, whole: bool
) -> FoundClassifier:
    """Finds a linear layer that takes a backbone's pooled output and has a different name than the format's classifier.

    The result has no tensors if the format's classifier is present or no layer qualifies.

    Args:
      chosen: the backbone.
      outside: names of tensors outside any FocalNet.
      kept: names of the backbone's tensors in the file, by name in its format.
      tensors: all tensors of the file.
      source: name of the file in messages.
      whole: whether the backbone has a final norm. Without a final norm, no layer qualifies.

    Raises:
      UserError: several layers qualify, or the layer cannot be read.
    """
    width = last_stage({name: tensors.shapes[held] for name, held in kept.items()})[1][:1]
    root = f"{HEADS[chosen.format].partition('.')[0]}."
    own = [name for rest, name in kept.items() if rest.startswith(root)]
    if own and f"{HEADS[chosen.format]}.weight" not in kept:  # inside an nn.Sequential, such as after a dropout
        linear = _linear(own, tensors)
        return _taken(linear, chosen, tensors, source) if _fits(linear, width, tensors) else FoundClassifier()
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
                why = f"{scope}{between[0]} may come before it" if between else "the backbone has no final norm"
                return FoundClassifier(decisions=(f"the classifier {name} was left out: {why}",))
            return _taken(fitting[name], chosen, tensors, source)
    return FoundClassifier()


def _modules(names: Sequence[str], scope: str, tensors: Tensors) -> dict[str, list[str]]:
    """Groups tensor names by child module of `scope`, leaving out counters such as `num_batches_tracked`."""
    modules: dict[str, list[str]] = {}
    for name in names:
        counts = name.endswith("bias") or np.prod(tensors.shapes[name], dtype=object) > 1
        if name.startswith(scope) and counts:
            modules.setdefault(name[len(scope) :].partition(".")[0], []).append(name)
    return modules


def _behind(chosen: Candidate, scope: str, modules: Mapping[str, list[str]]) -> list[str]:
    """Returns the modules that may be the classifier, by name or because they follow the backbone in a sequence."""
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
) -> FoundClassifier:
    """Returns a result without tensors. If a module was left out, its note names the module and the reason.

    Raises:
      UserError: the backbone has a classifier, and another module could also be the classifier.
    """
    if not own:
        return FoundClassifier(
            decisions=(f"{next(iter(linear))} was left out: it is not a linear layer on the backbone's pooled output",)
        )
    if fitting:
        _refuse_several(fitting | {f"{chosen.prefix}{HEADS[chosen.format]}": own}, tensors, source)
    outputs = tensors.shapes[own[0]][:1]
    after = [name for name, layer in linear.items() if _fits(layer, outputs, tensors)]
    return FoundClassifier(
        decisions=tuple(f"{name} was left out: its input is the classifier's output" for name in after[:1])
    )


def _refuse_several(found: Mapping[str, Sequence[str]], tensors: Tensors, source: str) -> NoReturn:
    sizes = ", ".join(f"{name} ({tensors.shapes[layer[0]][0]} classes)" for name, layer in found.items())
    raise UserError(
        f"{source} contains {len(found)} classifiers for one FocalNet: {sizes}; use --head drop, or save the model "
        "with one of them"
    )


def _taken(linear: Sequence[str], chosen: Candidate, tensors: Tensors, source: str) -> FoundClassifier:
    for name in linear:
        if name in tensors.problems:
            raise UserError(f"{source}: {name} {tensors.problems[name]}")
    head = HEADS[chosen.format]
    names = dict(zip((f"{head}.weight", f"{head}.bias"), linear, strict=False))
    outputs = tensors.shapes[linear[0]][0]
    added = {} if len(linear) > 1 else {f"{head}.bias": np.zeros(outputs, np.float32)}
    return FoundClassifier(
        names, added, (f"{linear[0].rpartition('.')[0]} taken as the classifier, {outputs} classes",)
    )


def _fits(linear: Sequence[str], width: tuple[int, ...], tensors: Tensors) -> bool:
    return bool(linear) and tensors.shapes[linear[0]][1:] == width


def _linear(names: Sequence[str], tensors: Tensors) -> list[str]:
    """Returns the names of weight and bias of a single linear layer, which may lack a bias; `[]` for other modules."""
    by_part = {name.rpartition(".")[2]: name for name in names}
    weight, bias = by_part.get("weight"), by_part.get("bias")
    if weight is None or len(tensors.shapes[weight]) != 2 or len(names) > 2:
        return []
    if len(names) == 1:
        return [weight]
    same = bias is not None and bias.rpartition(".")[0] == weight.rpartition(".")[0]
    return [weight, bias] if same and tensors.shapes[bias] == tensors.shapes[weight][:1] else []
