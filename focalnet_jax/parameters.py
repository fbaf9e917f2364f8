"""Names the parameters of a tree by their paths, and selects parameters by patterns of these names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from focalnet_jax.errors import UserError


def path_name(path: tuple[Any, ...]) -> str:
    """Returns the path name, such as `stages/0/blocks/mlp/fc1/kernel`, of a key path of `jax.tree_util`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by path name."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def with_leaves(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """Returns `tree` with its leaves replaced by `leaves`, a mapping that must contain every path name of the tree."""
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[path_name(path)], tree)


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tree of nested dicts whose leaves, by path name, are `leaves`."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = leaf
    return tree


def selected(pattern: str) -> Callable[[Any], Any]:
    """Returns a mask, as optax expects it: a function from a tree to a tree of booleans.

    A leaf is True if the regular expression `pattern` is found in its path name. The mask raises `UserError` if the
    pattern matches no leaf.
    """
    regex = re.compile(pattern)

    def mask(tree: Any) -> Any:
        flags = jax.tree_util.tree_map_with_path(lambda path, _: bool(regex.search(path_name(path))), tree)
        if not any(jax.tree.leaves(flags)):
            raise UserError(
                f"the pattern {pattern!r} matches no parameter; the parameters are {', '.join(named_leaves(tree))}"
            )
        return flags

    return mask


def by_pattern(rules: Sequence[tuple[str, Any]], tree: Any, key: str) -> dict[str, Any]:
    """Returns the values of the parameters that match a pattern, by path name.

    Args:
      rules: pairs of a regular expression and a value. A parameter matches if the expression is found in its path name.
      tree: the parameters.
      key: config key of the rules, for messages.

    Raises:
      UserError: a pattern is invalid or matches no parameter, or two patterns match the same parameter.
    """
    values: dict[str, Any] = {}
    by: dict[str, str] = {}
    leaves = named_leaves(tree)
    for pattern, value in rules:
        try:
            names = [name for name in leaves if re.search(pattern, name)]
        except re.error as error:
            raise UserError(f"{key}: {pattern!r} is not a regular expression ({error})") from error
        if not names:
            raise UserError(
                f"{key}: the pattern {pattern!r} matches no parameter; the parameters are {', '.join(leaves)}"
            )
        if twice := [name for name in names if name in by]:
            raise UserError(
                f"{key}: {twice[0]} is matched by both {by[twice[0]]!r} and {pattern!r}; change one of the patterns"
            )
        values |= dict.fromkeys(names, value)
        by |= dict.fromkeys(names, pattern)
    return values
