"""Applying a key table: parameters of ours to theirs and back, with every key on both sides accounted for."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx

from focalnet_jax.convert.tables import TABLES, Layout
from focalnet_jax.convert.tensors import Tensors
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNet, FocalNetConfig
from focalnet_jax.model.precision import get_precision
from focalnet_jax.parameters import named_leaves, with_leaves


@dataclass(frozen=True)
class Entry:
    """One tensor of theirs: where it lies in ours, and the shape it must have there before joining."""

    theirs: str
    ours: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]  # of each of `ours`, without the stacked axis
    block: int | None  # index along the stacked axis, None for a parameter that is not stacked
    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape in theirs."""
        joined = (*self.shapes[0][:-1], sum(shape[-1] for shape in self.shapes))
        return self.layout.to_theirs(np.broadcast_to(np.float32(0), joined)).shape


def abstract_params(config: FocalNetConfig) -> Any:
    """Shapes and dtypes of a model's parameters, as `{...: ShapeDtypeStruct}`."""
    return nnx.to_pure_dict(_abstract_state(config))


@functools.lru_cache(maxsize=8)
def _abstract_state(config: FocalNetConfig) -> nnx.State:
    # Kept, because one conversion asks several times, and tracing the model takes longer than all else it does.
    model = nnx.eval_shape(lambda: FocalNet(config, precision=get_precision("float32"), rngs=nnx.Rngs(0)))
    return nnx.state(model, nnx.Param)


def entries(config: FocalNetConfig, format: str) -> list[Entry]:
    """Every tensor a model of `config` has in `format`, in the table's order; each parameter exactly once."""
    leaves = {name: tuple(leaf.shape) for name, leaf in named_leaves(abstract_params(config)).items()}
    found = list(_expand(config, format, leaves))
    covered = [(name, entry.block) for entry in found for name in entry.ours]
    wanted = [
        (name, block) for name, shape in leaves.items() for block in (range(shape[0]) if "/blocks/" in name else [None])
    ]
    if sorted(covered, key=str) != sorted(wanted, key=str):
        raise AssertionError(f"the {format} table does not cover {set(wanted) ^ set(covered)} exactly once")
    return found


def _expand(config: FocalNetConfig, format: str, leaves: dict[str, tuple[int, ...]]) -> Iterator[Entry]:
    for row in TABLES[format]:
        if row.postln not in (None, config.use_postln):
            continue
        stages = range(len(config.depths)) if "{stage}" in row.ours[0] else [0]
        for stage in stages:
            levels = range(config.levels[stage]) if "{level}" in row.ours[0] else [0]
            stacked = "/blocks/" in row.ours[0]
            for block in range(config.depths[stage]) if stacked else [None]:
                for level in levels:
                    ours = tuple(name.format(stage=stage, level=level) for name in row.ours)
                    if ours[0] not in leaves:
                        continue
                    shapes = tuple(leaves[name][1:] if stacked else leaves[name] for name in ours)
                    theirs = row.theirs.format(stage=stage, next=stage + 1, block=block, level=level)
                    yield Entry(theirs, ours, shapes, block, row.layout)


def to_theirs(params: Any, config: FocalNetConfig, format: str) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of `params` in `format`, one at a time."""
    leaves = named_leaves(params)
    for entry in entries(config, format):
        parts = [np.asarray(leaves[name] if entry.block is None else leaves[name][entry.block]) for name in entry.ours]
        yield entry.theirs, np.ascontiguousarray(entry.layout.to_theirs(np.concatenate(parts, axis=-1)))


def to_ours(tensors: Mapping[str, np.ndarray], config: FocalNetConfig, format: str) -> Any:
    """Parameters, float32, from all of `tensors`; `UserError` names keys and shapes that do not fit."""
    wanted = entries(config, format)
    given = tensors.shapes if isinstance(tensors, Tensors) else {name: t.shape for name, t in tensors.items()}
    check_keys({entry.theirs: entry.shape for entry in wanted}, given)
    abstract = abstract_params(config)
    filled = {name: np.empty(leaf.shape, np.float32) for name, leaf in named_leaves(abstract).items()}
    for entry in wanted:
        joined = entry.layout.to_ours(_as_float32(entry.theirs, np.asarray(tensors[entry.theirs])))
        edges = np.cumsum([shape[-1] for shape in entry.shapes])[:-1]
        for name, part in zip(entry.ours, np.split(joined, edges, axis=-1), strict=True):
            filled[name][... if entry.block is None else entry.block] = part
    return with_leaves(abstract, filled)


def _as_float32(name: str, array: np.ndarray) -> np.ndarray:
    """The array in float32, to which every float16 and bfloat16 is exact; `UserError` if a float64 does not fit."""
    with np.errstate(over="ignore"):  # reported below
        cast = array.astype(np.float32)
    if array.dtype == np.float64 and np.isfinite(cast).sum() != np.isfinite(array).sum():
        raise UserError(f"{name} reaches {np.abs(array).max():.3g}, which float32, the type of parameters, cannot hold")
    return cast


def check_keys(wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses missing keys, extra keys and other shapes, naming them: `UserError`.

    Of keys that differ in nothing but their numbers the first is named and the others are counted.
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
