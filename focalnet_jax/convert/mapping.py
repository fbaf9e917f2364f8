"""Converts parameters to a format's tensors and back with a key table. Every key on both sides must be used."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx

from focalnet_jax.convert.tables import TABLES, KeyRow, Layout
from focalnet_jax.convert.tensors import Tensors
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNet, FocalNetConfig
from focalnet_jax.model.precision import get_precision
from focalnet_jax.parameters import named_leaves, with_leaves


@dataclass(frozen=True)
class Entry:
    """One tensor of a format, which consists of one or more parameters joined along their last axis."""

    key: str
    params: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]  # shapes of `params`, without the stacked axis
    block: int | None  # index along the stacked axis; None if `params` are not stacked
    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape in the format."""
        joined = (*self.shapes[0][:-1], sum(shape[-1] for shape in self.shapes))
        return self.layout.to_torch(np.broadcast_to(np.float32(0), joined)).shape


def param_shapes(config: FocalNetConfig) -> Any:
    """Returns the shapes and dtypes of a model's parameters, as a tree of `ShapeDtypeStruct`."""
    return nnx.to_pure_dict(_abstract_state(config))


@functools.lru_cache(maxsize=8)
def _abstract_state(config: FocalNetConfig) -> nnx.State:
    # Cached, because a conversion calls it several times and tracing the model is slow.
    model = nnx.eval_shape(lambda: FocalNet(config, precision=get_precision("float32"), rngs=nnx.Rngs(0)))
    return nnx.state(model, nnx.Param)


def entries(config: FocalNetConfig, format: str) -> list[Entry]:
    """Returns the tensors of a model in `format`, in table order. They contain every parameter exactly once."""
    return table_entries(TABLES[format], named_leaves(param_shapes(config)), postln=config.use_postln, format=format)


def table_entries(rows: Iterable[KeyRow], leaves: Mapping[str, Any], *, postln: bool, format: str) -> list[Entry]:
    """Returns the tensors of a model in table order. They contain every variable exactly once.

    Args:
      rows: table of the format.
      leaves: variables of the model by name, as arrays or shapes.
      postln: whether the blocks are post-norm.
      format: name of the table, for messages.

    Raises:
      AssertionError: the table does not cover a variable, or covers it twice.
    """
    shapes = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    found = [entry for row in rows if row.postln in (None, postln) for entry in _expand(row, shapes)]
    covered = [(name, entry.block) for entry in found for name in entry.params]
    wanted = [
        (name, block) for name, shape in shapes.items() for block in (range(shape[0]) if "/blocks/" in name else [None])
    ]
    if sorted(covered, key=str) != sorted(wanted, key=str):
        raise AssertionError(f"the {format} table does not cover {set(wanted) ^ set(covered)} exactly once")
    return found


def _expand(row: KeyRow, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Entry]:
    """Yields the tensors of a row, sorted by stage, block, level and layer."""
    stacked = "/blocks/" in row.params[0]
    found = []
    for name, shape in shapes.items():
        if match := row.param_pattern.fullmatch(name):
            numbers = {key: int(value) for key, value in match.groupdict().items()}
            found += [numbers | {"block": block} for block in range(shape[0] if stacked else 1)]
    for numbers in sorted(found, key=lambda each: [each.get(key, 0) for key in ("stage", "block", "level", "layer")]):
        params = tuple(name.format(**numbers) for name in row.params)
        parts = tuple(shapes[name][1:] if stacked else shapes[name] for name in params)
        key = row.key.format(next=numbers.get("stage", 0) + 1, **numbers)
        yield Entry(key, params, parts, numbers["block"] if stacked else None, row.layout)


def params_to_tensors(params: Any, config: FocalNetConfig, format: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the tensors of `params` in `format`, one at a time, as (key, array)."""
    return to_tensors(entries(config, format), named_leaves(params))


def to_tensors(entries: Iterable[Entry], leaves: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the tensors of the variables `leaves`, one at a time, as (key, array)."""
    for entry in entries:
        parts = [
            np.asarray(leaves[name] if entry.block is None else leaves[name][entry.block]) for name in entry.params
        ]
        yield entry.key, np.ascontiguousarray(entry.layout.to_torch(np.concatenate(parts, axis=-1)))


def tensors_to_params(tensors: Mapping[str, np.ndarray], config: FocalNetConfig, format: str) -> Any:
    """Converts tensors in `format` to float32 parameters of a model with `config`. Every tensor must be used.

    Raises:
      UserError: keys or shapes do not fit the model, or a value exceeds float32; the message names the tensors.
    """
    return from_tensors(tensors, entries(config, format), param_shapes(config))


def from_tensors(tensors: Mapping[str, np.ndarray], entries: Sequence[Entry], like: Any) -> Any:
    """Returns a tree with the structure of `like` and the values of `tensors` in float32. Every tensor must be used.

    Raises:
      UserError: see `tensors_to_params`.
    """
    given = tensors.shapes if isinstance(tensors, Tensors) else {name: t.shape for name, t in tensors.items()}
    check_keys({entry.key: entry.shape for entry in entries}, given)
    filled = {name: np.empty(leaf.shape, np.float32) for name, leaf in named_leaves(like).items()}
    for entry in entries:
        joined = entry.layout.to_jax(_as_float32(entry.key, np.asarray(tensors[entry.key])))
        edges = np.cumsum([shape[-1] for shape in entry.shapes])[:-1]
        for name, part in zip(entry.params, np.split(joined, edges, axis=-1), strict=True):
            filled[name][... if entry.block is None else entry.block] = part
    return with_leaves(like, filled)


def _as_float32(name: str, array: np.ndarray) -> np.ndarray:
    """Casts an array to float32, exactly for float16 and bfloat16. Raises `UserError` if float64 values overflow."""
    with np.errstate(over="ignore"):  # reported below
        cast = array.astype(np.float32)
    if array.dtype == np.float64 and np.isfinite(cast).sum() != np.isfinite(array).sum():
        largest = np.abs(array[np.isfinite(array)]).max()
        raise UserError(f"{name} has values up to {largest:.3g}, which exceed the range of float32")
    return cast


def check_keys(wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> None:
    """Raises `UserError` if keys are missing or unused, or their tensors have a different shape.

    The message names the keys. If keys differ only in their numbers, the message names the first and counts the rest.
    """
    problems: dict[tuple[str, str], list[str]] = {}
    for kind, names in (
        ("missing", [name for name in wanted if name not in given]),
        ("not used", [name for name in given if name not in wanted]),
        ("wrong shape", [name for name in wanted if name in given and tuple(given[name]) != wanted[name]]),
    ):
        for name in names:
            problems.setdefault((kind, re.sub(r"\d+", "*", name)), []).append(name)
    lines = []
    for (kind, pattern), names in problems.items():
        first = names[0]
        line = f"{kind} {first}"
        if kind == "wrong shape":
            line = f"{first} is {tuple(given[first])}, expected {wanted[first]}"
        lines.append(line + (f" (and {len(names) - 1} more {pattern})" if len(names) > 1 else ""))
    if lines:
        raise UserError(f"the weights do not fit the model: {'; '.join(lines)}")
