"""Matches the classes of data to the outputs of a dense model, by name."""

from __future__ import annotations

from collections.abc import Sequence

from focalnet_jax.data.class_words import keys_of
from focalnet_jax.distributed.startup import is_first
from focalnet_jax.errors import UserError, abbreviated

_SHOWN = 5


def match_names(
    names: Sequence[str], known: Sequence[str] | None, outputs: int, *, data: str, model: str, advice: str
) -> tuple[int, ...] | None:
    """Returns the index of the output of each class, or None if the classes are the outputs in the same order.

    Names that are not equal are compared in lower case, without spaces, hyphens, underscores, apostrophes and periods;
    several names of one class are separated by commas. If the names of the outputs are unknown, and the numbers of
    outputs and classes are equal, the classes are assumed to be in the order of the outputs, and a note is printed.

    Args:
      names: names of the classes of the data.
      known: names of the outputs, or None if they are unknown.
      outputs: number of outputs.
      data: name of the data in messages.
      model: name of the model in messages.
      advice: what to do if classes do not match, for messages.

    Raises:
      UserError: a class matches no output or several outputs; two classes of the data match the same output; or the
        outputs have no names, and the numbers of outputs and classes differ.
    """
    if not known:
        if len(names) != outputs:
            raise UserError(
                f"the names of the {outputs} outputs of {model} are unknown, and {data} has {len(names)} classes: "
                f"{advice}"
            )
        if is_first():
            print(
                f"note: the outputs of {model} have no names; they are assumed to be the {outputs} classes of {data}, "
                f"in this order: {abbreviated(names, 3)}"
            )
        return None
    if tuple(names) == tuple(known):
        return None
    by_name: dict[str, list[int]] = {}
    for output, name in enumerate(known):
        for key in keys_of(name):
            by_name.setdefault(key, []).append(output)
    exact = {name: output for output, name in enumerate(known)}
    found = [[exact[name]] if name in exact else _outputs(name, by_name) for name in names]
    missing = [name for name, each in zip(names, found, strict=True) if len(each) != 1]
    if missing:
        count = f"{len(missing)} {'class' if len(missing) == 1 else 'classes'}"
        raise UserError(
            f"{data} has {count} that {model} lacks: {abbreviated(missing, _SHOWN)}; the {len(known)} classes of the "
            f"model are {abbreviated(known, _SHOWN)}: {advice}"
        )
    matched = tuple(each[0] for each in found)
    for output in matched:
        if matched.count(output) > 1:
            same = [name for name, each in zip(names, matched, strict=True) if each == output]
            raise UserError(
                f"the classes {' and '.join(same)} of {data} all match {known[output]} of {model}: {advice}"
            )
    if is_first():
        print(f"{data}: {len(names)} of the {len(known)} classes of {model}, matched by name")
    return matched


def _outputs(name: str, by_name: dict[str, list[int]]) -> list[int]:
    """Returns the sorted indices of the outputs that have a name in common with a class."""
    return sorted({output for key in keys_of(name) for output in by_name.get(key, [])})
