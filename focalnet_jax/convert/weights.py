"""Reads weights in any format as parameters of this package, and recognises their model."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from focalnet_jax.checkpoint.steps import read_metadata
from focalnet_jax.checkpoint.weights import UnfitError, read_arrays, read_params, weights_item
from focalnet_jax.convert.checkpoint_metadata import check_which, checkpoint_info, reading_metadata
from focalnet_jax.convert.files import read_json
from focalnet_jax.convert.huggingface import CONFIG, label_conflicts, transformers_options
from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.mapping import param_shapes, tensors_to_params
from focalnet_jax.convert.metadata import options_in, read_info, with_class_names, with_layer
from focalnet_jax.convert.opened import Step, open_weights
from focalnet_jax.convert.parts import is_quantized
from focalnet_jax.convert.recognise import Recognised, is_variant, recognise, released_name, untagged
from focalnet_jax.convert.select import select
from focalnet_jax.convert.tensors import READ_DTYPES
from focalnet_jax.convert.timm import timm_options
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig, variant_config
from focalnet_jax.model.variants import model_from_metadata
from focalnet_jax.parameters import named_leaves, with_leaves
from focalnet_jax.settings.tasks import TASKS, stored_task
from focalnet_jax.storage.address import AnyPath

ONLY_BACKBONE = (
    "To use only the backbone, convert it with python -m focalnet_jax.convert SRC DST --to FORMAT --head drop"
)
"""Advice for a UPerNet or detector that cannot be read."""


@dataclass(frozen=True)
class Weights:
    """Float32 parameters, the config of their model, and their source."""

    params: Any
    config: FocalNetConfig
    name: str | None  # name of the released variant, or None
    format: str  # a key of a table of tensor names, such as "timm", or "orbax" for a checkpoint of this package
    dtype: str  # dtype in the file, such as "float16", or "float16 and float32"
    notes: tuple[str, ...]  # for the user, one line each
    info: WeightsInfo = field(default_factory=WeightsInfo)  # class names and preprocessing
    decisions: tuple[str, ...] = ()  # the notes that affect the model's outputs

    task = TASKS[0]
    what = "A FocalNet"

    @property
    def count(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in named_leaves(self.params).values())

    def warn(self, path: str | Path) -> None:
        """Issues a warning for every decision about the weights at `path`.

        If `load_model` calls this method, the warnings point to the line that called `load_model`.
        """
        for decision in self.decisions:
            warnings.warn(f"{path}: {decision}", stacklevel=3)


def describe_non_finite(params: Any) -> str:
    """Returns a message with the number and names of the arrays with NaN or infinite values; "" if there are none.

    At most three names are listed. Of a sharded array, only the shards of this process are checked.
    """
    leaves = named_leaves(params)
    broken = [name for name, leaf in leaves.items() if not all(map(_is_finite, _local_parts(leaf)))]
    if not broken:
        return ""
    more = ", ..." if len(broken) > 3 else ""
    return f"{len(broken)} of {len(leaves)} arrays contain NaN or infinite values: {', '.join(broken[:3])}{more}"


def _local_parts(leaf: Any) -> list[Any]:
    return [part.data for part in leaf.addressable_shards] if isinstance(leaf, jax.Array) else [leaf]


def _is_finite(values: Any) -> bool:
    return bool(np.isfinite(np.asarray(values)).all())


def read_weights(
    path: str | Path,
    name: str | None = None,
    options: Mapping[str, bool] | None = None,
    assumed: Mapping[str, bool] | None = None,
    *,
    replaced: Mapping[str, Any] | None = None,
    which: str | None = None,
    head: str = "keep",
    flag: str = "--option ",
) -> Weights:
    """Returns the weights at `path`: a torch or safetensors file, a directory of them, or a checkpoint of this package.

    A FocalNet is found under any key or prefix of a file; other tensors are left out and counted in the notes. A
    backbone without a classifier has 0 classes. If a backbone has neither a final norm nor a classifier, the norm of
    its last output becomes the final norm; without that norm, a new one is added. A linear layer after a backbone with
    a norm becomes the classifier. A layer before the backbone that normalizes images becomes a part of the
    preprocessing.

    Args:
      path: a file or directory, or an address `hf://ORG/NAME[@REVISION][/FILE]` on the Hugging Face Hub.
      name: name of the variant; recognised by default.
      options: values of `use_postln` and `normalize_modulator`, which shapes do not determine, given by the user.
      assumed: values of these options in the target model, used if the file and the accompanying files lack them.
      replaced: options of the variant `name` that the target model replaces; the weights may have either value.
      which: selection among several weights: "ema" for averaged weights, a key or prefix such as "teacher", or a file
        of a directory such as "model_1".
      head: "drop" if the caller will replace the classifier. A classifier that is not the format's own is then left out
        instead of used or rejected, and only the backbone of a checkpoint of segmentation or detection is read.
      flag: flag with which the user gives an option, for messages.

    Raises:
      UserError: `path` has no readable weights, the model is not the variant `name`, or there are several models to
        choose from.
    """
    if name is not None:
        name = untagged(name)
        variant_config(name)  # raises an error for an unknown name before anything is read
    opened = open_weights(path, which)
    if isinstance(opened, Step):
        return _from_checkpoint(opened.path, name, options or {}, replaced, which, head)
    path, folder = opened.path, opened.folder
    selected = select(opened.content, str(path), opened.which, head)
    tensors, format = selected.tensors, selected.format
    configured: Mapping[str, Any] = transformers_options(folder) if format == "huggingface" else {}
    if format == "timm" and (folder / CONFIG).is_file():
        configured = timm_options(read_json(folder / CONFIG), options or ())
    own = {} if configured else options_in(path)
    found = recognise(
        tensors.shapes,
        format=format,
        name=name,
        configured=configured or own,
        config_name="the file's metadata" if own else CONFIG,
        overrides=options,
        assumed=assumed,
        replaced=replaced,
        flag=flag,
    )
    dtype = dtypes_of(tensors.dtypes)
    params = tensors_to_params(tensors, found.config, format)
    notes = [*opened.notes, *opened.decisions, *tensors.notes, *selected.notes]
    for key in ("use_postln", "normalize_modulator"):
        notes.append(f"{key}={getattr(found.config, key)} from {found.sources[key]}")
    unshaped = ("drop_path_rate", "drop_rate", "layerscale_value")
    trained_with = {key: configured[key] for key in unshaped if key in configured}
    config = dataclasses.replace(found.config, **trained_with)
    info = read_info(path, folder, format, config.num_classes)
    info, named, unnamed = with_class_names(info, opened.content.class_lists, config)
    info, layers = with_layer(info, selected.normalization)
    notes += named
    cautions = [
        *unnamed,
        *layers,
        *(label_conflicts(folder) if format == "huggingface" else ()),
        *_differs_in_timm(found, format),
        *_differs_in_transformers(found.config, format, info),
    ]
    decisions = (*opened.decisions, *selected.decisions, *cautions)
    return Weights(params, config, found.name, format, dtype, (*notes, *cautions), info, decisions)


def _differs_in_timm(found: Recognised, format: str) -> list[str]:
    """Returns a note if `normalize_modulator` is on in the released variant, but off in timm's model of that name."""
    by_variant = found.sources["normalize_modulator"].startswith("variant")
    if format != "timm" or not (by_variant and found.config.normalize_modulator):
        return []
    return [
        f"normalize_modulator=True as in the original's {found.name}; it is off in timm: for weights trained with timm "
        "give --option normalize_modulator=false (normalize_modulator=False in Python)"
    ]


def _differs_in_transformers(config: FocalNetConfig, format: str, info: WeightsInfo) -> list[str]:
    """Returns a note if transformers computes different logits for images of the input size in `info`."""
    stride = config.patch_size * 2 ** (len(config.depths) - 1)
    if format != "huggingface" or info.preprocessing is None:
        return []
    height, width = info.preprocessing.size
    if height % stride == width % stride == 0:
        return []
    return [
        f"logits will differ from transformers': {height}x{width} is not a multiple of {stride}; transformers pads "
        "feature maps that strides do not divide, the original and this package drop the remainder"
    ]


def dtypes_of(dtypes: Mapping[str, str]) -> str:
    """Returns the dtypes of tensors as text, such as "float16 and float32".

    Raises:
      UserError: a dtype is quantized or not supported.
    """
    found = sorted(set(dtypes.values()))
    foreign = [dtype for dtype in found if dtype not in READ_DTYPES]
    if foreign:
        where = next(name for name, dtype in dtypes.items() if dtype == foreign[0])
        if is_quantized(foreign[0]):
            raise UserError(f"{where} is {foreign[0]}, quantized; save the model before it is quantized")
        raise UserError(f"{where} is {foreign[0]}; expected one of {', '.join(READ_DTYPES)}")
    return " and ".join(found)


def _from_checkpoint(
    step: AnyPath,
    name: str | None,
    options: Mapping[str, bool],
    replaced: Mapping[str, Any] | None,
    which: str | None,
    head: str,
) -> Weights:
    check_which(step, which)
    with reading_metadata(step):
        metadata = read_metadata(step)
        stored = metadata.get("model")
        if stored is None:
            raise UserError(
                f"the metadata of {step} lacks model, which describes the architecture: choose another checkpoint"
            )
        _, config = model_from_metadata(stored)
    held = released_name(config)
    if name is not None and not is_variant(config, name, replaced):
        raise UserError(f"{step} contains {held or 'no released variant'}, not {name}: omit the name")
    for key, value in options.items():
        if getattr(config, key) != value:
            raise UserError(f"{key}={value} was given, but the checkpoint has {getattr(config, key)}: omit {key}")
    task = stored_task(metadata)
    with reading_metadata(step):
        if task != TASKS[0] and head == "drop":
            return _backbone(step, config, held, task, checkpoint_info(metadata))
        try:
            params = read_params(step, param_shapes(config))
        except UnfitError as error:
            if task == TASKS[0]:
                raise
            raise UserError(
                f"{step} is a checkpoint of the task {task}, whose model has other parameters than a FocalNet with a "
                "classifier; expected weights of classification"
            ) from error
    return Weights(params, config, held, "orbax", "float32", (f"read from {step}",), checkpoint_info(metadata))


def _backbone(step: AnyPath, config: FocalNetConfig, name: str | None, task: str, info: WeightsInfo) -> Weights:
    params, config = backbone_only(read_arrays(step, weights_item(step)), config)
    note = f"only the backbone of a checkpoint of {task}; the norm of its last output taken as the final norm"
    info = dataclasses.replace(info, classes=None, palette=None, box=None)
    return Weights(params, config, name, "orbax", "float32", (f"read from {step}", note), info, (note,))


def backbone_only(leaves: Mapping[str, np.ndarray], config: FocalNetConfig) -> tuple[Any, FocalNetConfig]:
    """Returns the parameters and config of the backbone of a UPerNet or detector, as a FocalNet without a classifier.

    The norm of the backbone's last output becomes the final norm.

    Args:
      leaves: parameters of the UPerNet or detector by name.
      config: config of the backbone.
    """
    own = {name.removeprefix("backbone/"): leaf for name, leaf in leaves.items() if name.startswith("backbone/")}
    last = f"output_norms/{len(config.depths) - 1}"
    own |= {f"norm/{part}": own[f"{last}/{part}"] for part in ("scale", "bias")}
    config = dataclasses.replace(config, num_classes=0)
    return with_leaves(param_shapes(config), own), config
