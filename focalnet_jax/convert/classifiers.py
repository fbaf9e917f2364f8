"""The classifier of a FocalNet that is the backbone of a larger module, as mmpretrain and many scripts build it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
    decisions: list[str] = field(default_factory=list)


def beside(
    chosen: Candidate,
    outside: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Tensors,
    source: str,
    *,
    whole: bool,
) -> Found:
    """Returns the one linear layer beside a backbone that classifies by its pooled output.

    Args:
      chosen: the backbone.
      outside: names of tensors that are not a FocalNet's.
      shapes: of the backbone's tensors, by its format's names.
      tensors: all of the file's.
      source: the file, for messages.
      whole: whether the backbone has its final norm; a classifier was not trained behind a fresh one.

    Raises:
      UserError: there are two to choose from.
    """
    for scope in chosen.enclosing():
        modules = _modules(outside, scope, tensors)
        behind = _behind(chosen, scope, modules)
        if behind:
            return _classifier(chosen, scope, behind, modules, shapes, tensors, source, whole=whole)
    return Found()


def _modules(names: Sequence[str], scope: str, tensors: Tensors) -> dict[str, list[str]]:
    """Tensors of more than one number, by the module of `scope` that holds them."""
    modules: dict[str, list[str]] = {}
    for name in names:
        if name.startswith(scope) and np.prod(tensors.shapes[name], dtype=object) > 1:
            modules.setdefault(name[len(scope) :].partition(".")[0], []).append(name)
    return modules


def _behind(chosen: Candidate, scope: str, modules: Mapping[str, list[str]]) -> list[str]:
    """Modules that may classify: by their name, or behind the backbone in an `nn.Sequential`."""
    own = chosen.prefix[len(scope) :].partition(".")[0]
    later = [name for name in modules if own.isdecimal() and name.isdecimal() and int(name) > int(own)]
    return [name for name in modules if name in later or _CLASSIFIERS.fullmatch(name)]


def _classifier(
    chosen: Candidate,
    scope: str,
    behind: Sequence[str],
    modules: Mapping[str, list[str]],
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Tensors,
    source: str,
    *,
    whole: bool,
) -> Found:
    width = last_stage(dict(shapes))[1][:1]
    linear = {name: _linear(modules[name], tensors) for name in behind}
    own = shapes.get(f"{HEADS[chosen.format]}.weight")
    fitting = [name for name in behind if linear[name] and tensors.shapes[linear[name][0]][1:] == width]
    if len(fitting) + (own is not None) > 1 and fitting:
        sizes = [f"{scope}{name} ({tensors.shapes[linear[name][0]][0]} classes)" for name in fitting]
        sizes += [f"{chosen.prefix}{HEADS[chosen.format]} ({own[0]} classes)"] if own else []
        raise UserError(
            f"{source} holds {len(sizes)} classifiers for one FocalNet: {', '.join(sizes)}; --head drop takes it "
            "without them, or save it with the right one alone"
        )
    if not fitting:
        after = [name for name in behind if own and linear[name] and tensors.shapes[linear[name][0]][1] == own[0]]
        if own and not after:
            return Found()
        kinds = [f"{scope}{name} ({len(modules[name])} tensor{'s' * (len(modules[name]) > 1)})" for name in behind]
        what = "takes the classifier's outputs" if own else "is no linear layer on the backbone's pooled output"
        return Found(
            decisions=[f"{(after or behind)[0]} was left: it {what}" if own else f"{kinds[0]} was left: it {what}"]
        )
    (name,) = fitting
    between = [other for other in modules if other != name and not _ASIDE.fullmatch(other)]
    if between or not whole:
        why = f"{scope}{between[0]} may stand before it" if between else "the backbone has no final norm"
        return Found(decisions=[f"the classifier {scope}{name} was left: {why}"])
    weight, *bias = linear[name]
    theirs = HEADS[chosen.format]
    outputs = tensors.shapes[weight][0]
    return Found(
        {f"{theirs}.weight": weight} | {f"{theirs}.bias": each for each in bias},
        {} if bias else {f"{theirs}.bias": np.zeros(outputs, np.float32)},
        [f"{weight.rpartition('.')[0]} taken as the classifier, {outputs} classes"],
    )


def _linear(names: Sequence[str], tensors: Tensors) -> list[str]:
    """Weight and bias of a module that holds one linear layer and nothing else; the weight alone, or nothing."""
    by_part = {name.rpartition(".")[2]: name for name in names}
    weight = by_part.get("weight")
    if weight is None or len(tensors.shapes[weight]) != 2 or len(names) > 2:
        return []
    if len(names) == 1:
        return [weight]
    bias = by_part.get("bias")
    same = bias is not None and bias.rpartition(".")[0] == weight.rpartition(".")[0]
    return [weight, bias] if same and tensors.shapes[bias] == tensors.shapes[weight][:1] else []
