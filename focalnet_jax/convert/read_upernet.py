"""Reads UPerNet with FocalNet from files of mmsegmentation and transformers, and from checkpoints of this package."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from focalnet_jax.checkpoint.steps import read_metadata
from focalnet_jax.checkpoint.weights import read_arrays, weights_item
from focalnet_jax.convert.candidates import Candidate
from focalnet_jax.convert.checkpoint_metadata import check_which, checkpoint_info, reading_metadata
from focalnet_jax.convert.dense_files import (
    STATISTICS,
    GivenOptions,
    backbone_config,
    check_given,
    variant_of,
    with_names,
    with_normalization,
)
from focalnet_jax.convert.files import read_json
from focalnet_jax.convert.huggingface import CONFIG, PREPROCESSOR, classes_in_config, options_in_config
from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.mapping import check_keys, table_entries
from focalnet_jax.convert.metadata import heads_in, own_info
from focalnet_jax.convert.mmseg_configs import configured_normalization
from focalnet_jax.convert.opened import Opened, Step, open_weights
from focalnet_jax.convert.recognise import untagged
from focalnet_jax.convert.select import choose
from focalnet_jax.convert.tables_upernet import COUNTERS, UPERNET_TABLES, tensors_to_variables
from focalnet_jax.convert.tensors import Tensors
from focalnet_jax.convert.upernet import (
    Heads,
    UPerNetWeights,
    abstract_upernet,
    heads_from_dict,
    heads_from_shapes,
    with_variables,
)
from focalnet_jax.convert.weights import ONLY_BACKBONE, dtypes_of
from focalnet_jax.data.preprocessing import from_config
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.model.variants import model_from_metadata
from focalnet_jax.parameters import named_leaves
from focalnet_jax.settings.tasks import stored_task
from focalnet_jax.storage.address import AnyPath

_SEGMENTATION = "segmentation"
_PARTS = ("backbone.", "decode_head.", "auxiliary_head.")
UPERNET_SIGN = "decode_head.psp_modules.0.1.conv.weight"
"""Name of a tensor that only UPerNet has."""
# By format: the last layer of the decode head, the table of the backbone, and the norm of the backbone's first output.
_FORMATS = {
    "mmseg": ("decode_head.conv_seg.weight", "microsoft", "norm0.weight"),
    "huggingface": ("decode_head.classifier.weight", "huggingface", "hidden_states_norms.stage1.weight"),
}


def read_upernet(
    path: str | Path,
    name: str | None = None,
    options: Mapping[str, bool] | None = None,
    assumed: Mapping[str, bool] | None = None,
    *,
    scales: Sequence[int] | None = None,
    which: str | None = None,
    flag: str = "--option ",
) -> UPerNetWeights:
    """Returns the UPerNet at `path`: a file of mmsegmentation or transformers, or a checkpoint of this package.

    Args:
      path: path of the weights, see `read_weights`.
      name: name of the variant, whose focal windows may differ.
      options: options of the backbone given by the user.
      assumed: options of the backbone in the target model.
      scales: `pool_scales` of the heads in the target model, for files that do not contain them.
      which: selection among several weights, see `read_weights`.
      flag: flag with which the user gives an option, for messages.

    Raises:
      UserError: there is no UPerNet, or its backbone returns other maps than the original's; see also `read_weights`.
    """
    name = None if name is None else untagged(name)
    opened = open_weights(path, which)
    if isinstance(opened, Step):
        return _from_checkpoint(opened.path, name, options or {}, which)
    source = str(opened.path)
    tensors, chosen, _, choice = choose(opened.content, source, opened.which)
    root = upernet_root(chosen, tensors)
    if root is None:
        raise UserError(f"{source} contains no UPerNet, whose tensors have names such as {UPERNET_SIGN}")
    format = _format(chosen, root, tensors, source)
    own = {name.removeprefix(root): name for name in tensors if name.startswith(tuple(root + part for part in _PARTS))}
    if broken := [name for name in own.values() if name in tensors.problems]:
        raise UserError(f"{source}: {broken[0]} {tensors.problems[broken[0]]}")
    stated = read_json(opened.folder / CONFIG) if (opened.folder / CONFIG).is_file() else {}
    stated = stated if format == "huggingface" and stated.get("model_type") == "upernet" else {}
    held = tensors.renamed(own)
    given = GivenOptions(name, options or {}, assumed, flag)
    configured = options_in_config(stated.get("backbone_config") or {}, opened.folder / CONFIG)
    codebase = "mmsegmentation" if format == "mmseg" else None
    config, known, notes = backbone_config(
        held.shapes, _FORMATS[format][1], source, given, configured=configured, codebase=codebase
    )
    windows = heads_in(opened.path).get("pool_scales") or stated.get("pool_scales") or scales
    heads, classes = heads_from_shapes(_kernels(held.shapes, format), windows, source)
    config = dataclasses.replace(config, num_classes=classes)
    held, unfit = _with_auxiliary(held, heads, config, format)
    heads = dataclasses.replace(heads, auxiliary_channels=0) if unfit else heads
    like = nnx.to_pure_dict(nnx.state(abstract_upernet(config, heads)))
    params, statistics = with_variables(config, heads, named_leaves(tensors_to_variables(held, like, config, format)))
    info, named, cautions = _info(opened, stated, classes)
    normalized = configured_normalization(opened.content.configs) if format == "mmseg" else None
    info, params, stored = with_normalization(info, params, normalized)
    others = len(tensors) - len(own)
    notes = [
        *(*opened.notes, *opened.decisions, *tensors.notes, *choice),
        *([f"prefix {root!r} removed from the names"] if root else []),
        *([f"{others} tensors of other modules left out"] if others else []),
        *(*unfit, *notes, *named, *cautions, *stored),
    ]
    dtype = dtypes_of({name: each for name, each in held.dtypes.items() if not name.endswith(COUNTERS)})
    decisions = (*opened.decisions, *(choice if which is None else ()), *cautions, *stored)
    return UPerNetWeights(params, config, known, format, dtype, tuple(notes), info, decisions, statistics, heads)


def upernet_root(chosen: Candidate, tensors: Tensors) -> str | None:
    """Returns the prefix of the UPerNet around a backbone, or None if the backbone is not part of one."""
    return next((scope for scope in chosen.enclosing() if scope + UPERNET_SIGN in tensors.shapes), None)


def _format(chosen: Candidate, root: str, tensors: Tensors, source: str) -> str:
    for format, (classifier, backbone, norm) in _FORMATS.items():
        if root + classifier not in tensors.shapes:
            continue
        whole = chosen.format == backbone and f"{root}backbone.{norm}" in tensors.shapes
        if whole and chosen.prefix == f"{root}backbone.":
            return format
        what = f"a FocalNet without the norms of its outputs, such as backbone.{norm}"
        if format == "huggingface" and chosen.format == "huggingface":
            what = "transformers' FocalNetBackbone, whose maps are taken after the downsampling and not normalized"
        elif chosen.format == "timm":
            what = "timm's FocalNet, whose maps are not normalized"
        raise UserError(
            f"{source}: this UPerNet has {what}; this package's UPerNet, as the original's, needs a normalized map of "
            f"each stage before its downsampling. {ONLY_BACKBONE}"
        )
    raise UserError(
        f"{source}: the decode head lacks its last layer, {_FORMATS['mmseg'][0]}; expected a complete UPerNet"
    )


def _kernels(shapes: Mapping[str, tuple[int, ...]], format: str) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the heads' kernels by parameter name. The last axis is that of the outputs."""
    kernels = {}
    for row in UPERNET_TABLES[format]:
        if row.params[0].endswith("/kernel") and not row.key.startswith("backbone."):
            for key, shape in shapes.items():
                if (match := row.pattern.fullmatch(key)) and len(shape) == row.layout.rank:
                    kernels[row.params[0].format(**match.groupdict())] = (*shape[1:], shape[0])
    return kernels


def _with_auxiliary(held: Tensors, heads: Heads, config: FocalNetConfig, format: str) -> tuple[Tensors, list[str]]:
    """Returns the tensors without an auxiliary head that differs from the original's, and notes.

    The notes are empty if the tensors have an auxiliary head like the original's.
    """
    given = {key: shape for key, shape in held.shapes.items() if key.startswith("auxiliary_head.")}
    if not given:
        return held, ["there is no auxiliary head"]
    if heads.auxiliary_channels:
        leaves = named_leaves(nnx.to_pure_dict(nnx.state(abstract_upernet(config, heads))))
        entries = table_entries(UPERNET_TABLES[format], leaves, postln=config.use_postln, format=format)
        wanted = {entry.key: entry.shape for entry in entries if entry.key.startswith("auxiliary_head.")}
        if wanted == {key: shape for key, shape in given.items() if not key.endswith(COUNTERS)}:
            return held, []
    rest = held.renamed({key: key for key in held if key not in given})
    return rest, ["the auxiliary head was left out: expected one convolution on the last but one stage"]


def _info(opened: Opened, stated: Mapping[str, Any], classes: int) -> tuple[WeightsInfo, list[str], list[str]]:
    """Returns the info with class names, palette and normalization; notes for the user; and warnings for the user."""
    folder = opened.folder
    info = own_info(opened.path, classes) or WeightsInfo()
    if stated and (names := classes_in_config(folder / CONFIG, stated.get("id2label"), classes)):
        info = dataclasses.replace(info, classes=names)
    if stated and (folder / PREPROCESSOR).is_file() and info.preprocessing is None:
        raw = read_json(folder / PREPROCESSOR)
        data = {"mean": raw.get("image_mean"), "std": raw.get("image_std"), "image_size": 512}
        info = dataclasses.replace(info, preprocessing=from_config(data), normalization_only=True)
    return with_names(info, opened.content, classes)


def _from_checkpoint(step: AnyPath, name: str | None, options: Mapping[str, bool], which: str | None) -> UPerNetWeights:
    check_which(step, which)
    with reading_metadata(step):
        metadata = read_metadata(step)
        if (task := stored_task(metadata)) != _SEGMENTATION:
            raise UserError(f"{step} is a checkpoint of the task {task}; expected weights of segmentation")
        _, config = model_from_metadata(metadata["model"])
        stored = metadata["head"] if "head" in metadata else metadata["config"]["head"]
        scales = heads_from_dict(stored).pool_scales
    check_given(step, config, name, options)
    with reading_metadata(step):
        item = weights_item(step)
        params, statistics = (read_arrays(step, each) for each in (item, STATISTICS[item]))
        arrays = params | statistics
        shapes = {key: tuple(value.shape) for key, value in arrays.items()}
        heads, classes = heads_from_shapes(shapes, scales, str(step))
        config = dataclasses.replace(config, num_classes=classes)
        wanted = named_leaves(nnx.to_pure_dict(nnx.state(abstract_upernet(config, heads))))
        check_keys({key: tuple(leaf.shape) for key, leaf in wanted.items()}, shapes)
        variables = with_variables(config, heads, arrays)
    notes, info = (f"read from {step}",), checkpoint_info(metadata)
    return UPerNetWeights(
        variables[0], config, variant_of(config), "orbax", "float32", notes, info, (), variables[1], heads
    )
