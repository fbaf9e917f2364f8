"""Reads detectors with FocalNet from checkpoints of this package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flax import nnx

from focalnet_jax.checkpoint.steps import read_metadata
from focalnet_jax.checkpoint.weights import read_arrays, weights_item
from focalnet_jax.convert.detectors import TASK, DetectorWeights, abstract_detector, head_from_dict, with_variables
from focalnet_jax.convert.mapping import check_keys
from focalnet_jax.convert.opened import Step, open_weights
from focalnet_jax.convert.read_upernet import check_given, variant_of
from focalnet_jax.convert.weights import check_which, checkpoint_info, reading_metadata
from focalnet_jax.errors import UserError
from focalnet_jax.model.variants import model_from_metadata
from focalnet_jax.parameters import named_leaves
from focalnet_jax.settings.tasks import stored_task
from focalnet_jax.storage.address import AnyPath
from focalnet_jax.storage.files import exists

# Item of a checkpoint with the running statistics that belong to the weights in another item.
_STATISTICS = {"params": "statistics", "ema": "ema_statistics"}


def read_detector(
    path: str | Path,
    name: str | None = None,
    options: Mapping[str, bool] | None = None,
    *,
    which: str | None = None,
) -> DetectorWeights:
    """Returns the detector's weights at `path`, a checkpoint of this package.

    Args:
      path: see `read_weights`.
      name: name of the variant, whose focal windows may differ.
      options: options of the backbone given by the user.
      which: selection among several weights.

    Raises:
      UserError: there is no detector, or the errors of `read_weights`.
    """
    opened = open_weights(path, which)
    if isinstance(opened, Step):
        return _from_checkpoint(opened.path, name, options or {}, which)
    raise UserError(f"{opened.path} contains no detector; expected a checkpoint of detection")


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
        if exists(step / _STATISTICS[item]):  # missing for a model without BatchNorm
            arrays |= read_arrays(step, _STATISTICS[item])
        wanted = named_leaves(nnx.to_pure_dict(nnx.state(abstract_detector(config, head))))
        shapes = {key: tuple(value.shape) for key, value in arrays.items()}
        check_keys({key: tuple(leaf.shape) for key, leaf in wanted.items()}, shapes)
        params, statistics = with_variables(config, head, arrays)
    notes, info = (f"read from {step}",), checkpoint_info(metadata)
    return DetectorWeights(params, config, variant_of(config), "orbax", "float32", notes, info, (), statistics, head)
