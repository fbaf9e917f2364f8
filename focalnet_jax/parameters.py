"""Parameters by name: the dotted path of every leaf, and selection by pattern."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from focalnet_jax.errors import UserError


def path_name(path: tuple[Any, ...]) -> str:
    """`stages/0/blocks/mlp/fc1/kernel` for a key path of `jax.tree_util`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any) -> dict[str, Any]:
    """All leaves of a tree by path name."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def with_leaves(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """`tree` with the leaves of these path names in place of its own; every one must be there."""
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[path_name(path)], tree)


def selected(pattern: str) -> Callable[[Any], Any]:
    """A function from a tree to a tree of booleans: whether `pattern` is found in the leaf's path name.

    The function raises `UserError` if the pattern selects nothing: a pattern that never matches is a mistake.
    """
    regex = re.compile(pattern)

    def mask(tree: Any) -> Any:
        flags = jax.tree_util.tree_map_with_path(lambda path, _: bool(regex.search(path_name(path))), tree)
        if not any(jax.tree.leaves(flags)):
            raise UserError(f"the pattern {pattern!r} matches no parameter; they are {', '.join(named_leaves(tree))}")
        return flags

    return mask


def by_pattern(rules: Sequence[tuple[str, Any]], tree: Any, key: str) -> dict[str, Any]:
    """The value of every leaf, by path name, whose name one of the patterns is found in.

    Raises:
      UserError: a pattern is none or selects nothing, or two select the same leaf; names them and the config's `key`.
    """
    values: dict[str, Any] = {}
    by: dict[str, str] = {}
    leaves = named_leaves(tree)
    for pattern, value in rules:
        try:
            names = [name for name in leaves if re.search(pattern, name)]
        except re.error as error:
            raise UserError(f"{key}: {pattern!r} is no regular expression: {error}") from error
        if not names:
            raise UserError(f"{key}: the pattern {pattern!r} matches no parameter; they are {', '.join(leaves)}")
        if twice := [name for name in names if name in by]:
            raise UserError(
                f"{key}: {twice[0]} is matched by both {by[twice[0]]!r} and {pattern!r}: make them exclude each other"
            )
        values |= dict.fromkeys(names, value)
        by |= dict.fromkeys(names, pattern)
    return values
