"""Reads detectors with FocalNet from files of mmdetection and from checkpoints of this package."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from flax import nnx

from focalnet_jax.checkpoint.steps import read_metadata
from focalnet_jax.checkpoint.weights import read_arrays, weights_item
from focalnet_jax.convert.candidates import Candidate
from focalnet_jax.convert.dense_files import (
    BACKBONE,
    STATISTICS,
    GivenOptions,
    backbone_config,
    check_given,
    variant_of,
    with_names,
    with_normalization,
)
from focalnet_jax.convert.detectors import TASK, DetectorWeights, abstract_detector, head_from_dict, with_variables
from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.mapping import check_keys
from focalnet_jax.convert.metadata import own_info
from focalnet_jax.convert.mmseg_configs import configured_normalization
from focalnet_jax.convert.opened import Step, open_weights
from focalnet_jax.convert.recognise import untagged
from focalnet_jax.convert.recognise_detector import find_detector, head_from_shapes
from focalnet_jax.convert.select import choose
from focalnet_jax.convert.tables_detection import tensors_to_variables
from focalnet_jax.convert.tables_upernet import COUNTERS
from focalnet_jax.convert.tensors import Tensors
from focalnet_jax.convert.weights import ONLY_BACKBONE, check_which, checkpoint_info, dtypes_of, reading_metadata
from focalnet_jax.errors import UserError
from focalnet_jax.model.variants import model_from_metadata
from focalnet_jax.parameters import named_leaves
from focalnet_jax.settings.tasks import stored_task
from focalnet_jax.storage.address import AnyPath
from focalnet_jax.storage.files import exists


def read_detector(
    path: str | Path,
    name: str | None = None,
    options: Mapping[str, bool] | None = None,
    assumed: Mapping[str, bool] | None = None,
    *,
    which: str | None = None,
    flag: str = "--option ",
) -> DetectorWeights:
    """Returns the weights of the detector at `path`: a file of mmdetection or a checkpoint of this package.

    Args:
      path: path of the weights, see `read_weights`.
      name: name of the variant, whose focal windows may differ.
      options: options of the backbone given by the user.
      assumed: options of the backbone in the target model.
      which: selection among several weights, see `read_weights`.
      flag: flag with which the user gives an option, for messages.

    Raises:
      UserError: there is no detector, or tensors are missing or not used; see also `read_weights`.
    """
    name = None if name is None else untagged(name)
    opened = open_weights(path, which)
    if isinstance(opened, Step):
        return _from_checkpoint(opened.path, name, options or {}, which)
    source = str(opened.path)
    tensors, chosen, others, choice = choose(opened.content, source, opened.which)
    if (found := find_detector(chosen, tensors)) is None:
        raise UserError(
            f"{source} contains no detector; expected mmdetection's ATSS, Mask R-CNN, Cascade Mask R-CNN or Sparse "
            "R-CNN with FocalNet, or a checkpoint of detection"
        )
    detector, root = found
    _check_backbone(chosen, root, source)
    held = _own_tensors(tensors, root, others, source)
    given = GivenOptions(name, options or {}, assumed, flag)
    config, known, notes = backbone_config(held.shapes, "microsoft", source, given, codebase="mmdetection")
    head, classes = head_from_shapes(detector, held.shapes, source)
    config = dataclasses.replace(config, num_classes=classes)
    like = nnx.to_pure_dict(nnx.state(abstract_detector(config, head)))
    variables = tensors_to_variables(held, like, config, detector)
    params, statistics = with_variables(config, head, named_leaves(variables))
    info = own_info(opened.path, classes) or WeightsInfo()
    info, named, cautions = with_names(info, opened.content, classes)
    info, params, normalized = with_normalization(info, params, configured_normalization(opened.content.configs))
    notes = [
        *(*opened.notes, *opened.decisions, *tensors.notes, *choice),
        *([f"prefix {root!r} removed from the names"] if root else []),
        *(*notes, *named, *cautions, *normalized),
    ]
    dtype = dtypes_of({key: each for key, each in held.dtypes.items() if not key.endswith(COUNTERS)})
    decisions = (*opened.decisions, *(choice if which is None else ()), *cautions, *normalized)
    return DetectorWeights(params, config, known, "mmdet", dtype, tuple(notes), info, decisions, statistics, head)


def _check_backbone(chosen: Candidate, root: str, source: str) -> None:
    """Raises `UserError` if the backbone of a detector is not the original's FocalNet."""
    if chosen.format != "microsoft":
        code = {"huggingface": "transformers"}.get(chosen.format, chosen.format)
        raise UserError(
            f"{source}: this detector has {code}'s FocalNet, whose maps are not the original's; this package's "
            f"detectors need a normalized map of each stage before its downsampling. {ONLY_BACKBONE}"
        )
    if chosen.prefix != root + BACKBONE:
        raise UserError(f"{source}: the FocalNet of this detector is {chosen.key}; expected {root}{BACKBONE[:-1]}")


def _own_tensors(tensors: Tensors, root: str, others: Sequence[Candidate], source: str) -> Tensors:
    """Returns the tensors below the prefix `root` by their names in mmdetection, without those of inner detectors."""
    found = filter(None, (find_detector(other, tensors) for other in others))
    inner = tuple(prefix for _, prefix in found if len(prefix) > len(root))
    own = [name for name in tensors if name.startswith(root) and not name.startswith(inner)]
    if broken := [name for name in own if name in tensors.problems]:
        raise UserError(f"{source}: {broken[0]} {tensors.problems[broken[0]]}")
    return tensors.renamed({name.removeprefix(root): name for name in own})


def _from_checkpoint(
    step: AnyPath, name: str | None, options: Mapping[str, bool], which: str | None
) -> DetectorWeights:
    check_which(step, which)
    with reading_metadata(step):
        metadata = read_metadata(step)
        if (task := stored_task(metadata)) != TASK:
            raise UserError(f"{step} is a checkpoint of the task {task}; expected weights of detection")
        _, config = model_from_metadata(metadata["model"])
        check_given(step, config, name, options)
        head = head_from_dict(metadata["head"] if "head" in metadata else metadata["config"]["head"])
        item = weights_item(step)
        arrays = read_arrays(step, item)
        if exists(step / STATISTICS[item]):  # missing for a model without BatchNorm
            arrays |= read_arrays(step, STATISTICS[item])
        wanted = named_leaves(nnx.to_pure_dict(nnx.state(abstract_detector(config, head))))
        shapes = {key: tuple(value.shape) for key, value in arrays.items()}
        check_keys({key: tuple(leaf.shape) for key, leaf in wanted.items()}, shapes)
        params, statistics = with_variables(config, head, arrays)
    notes, info = (f"read from {step}",), checkpoint_info(metadata)
    return DetectorWeights(params, config, variant_of(config), "orbax", "float32", notes, info, (), statistics, head)
