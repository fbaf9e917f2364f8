"""Loads the weights at a path into a model."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from focalnet_jax.checkpoint.steps import find_checkpoint, read_metadata
from focalnet_jax.checkpoint.weights import load_params, load_statistics, weights_item
from focalnet_jax.convert.adapt import adapt, check_adaptable, needs_surgery
from focalnet_jax.convert.checkpoint_metadata import check_which, checkpoint_info
from focalnet_jax.convert.detectors import detector_of
from focalnet_jax.convert.files import is_checkpoint
from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.read_detector import read_detector
from focalnet_jax.convert.read_upernet import read_upernet
from focalnet_jax.convert.recognise import NOT_FROM_SHAPES
from focalnet_jax.convert.upernet import upernet_of
from focalnet_jax.convert.weights import Weights, describe_non_finite, read_weights
from focalnet_jax.convert.weights_task import weights_task
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNet, FocalNetConfig
from focalnet_jax.model.precision import get_precision
from focalnet_jax.model.variants import checked_fields, model_from_metadata
from focalnet_jax.parameters import named_leaves, nested
from focalnet_jax.settings.tasks import TASKS


def load_model(
    path: str | Path,
    name: str | None = None,
    *,
    head: str = "keep",
    dtype: str | Any = "float32",
    weights: str | None = None,
    **options: Any,
) -> nnx.Module:
    """Returns the model with the weights at `path`, in any supported format.

    Weights of segmentation and detection give a UPerNet and a detector if `head` is "keep". In all other cases, the
    model is a FocalNet.

    Args:
      path: a torch or safetensors file of any name, an index of shards, a Hugging Face or DeepSpeed directory, a
        workdir or a checkpoint; or an address on the Hugging Face Hub, `hf://ORG/NAME[@REVISION][/FILE]`, whose weights
        are downloaded to the hub's cache.
      name: name of the variant; recognised by default.
      head: "keep" keeps the classifier. "drop" initialises a new classifier for `num_classes` classes (default: the
        number in the weights). "remap", with `num_classes=1000`, selects the rows of ImageNet-1K in a classifier for
        ImageNet-22K.
      dtype: precision policy, "float32" or "bfloat16"; parameters are float32 in both.
      weights: selection among several weights in the file: "ema" for averaged weights, a key or prefix such as
        "teacher", or a file of a directory such as "model_1".
      **options: fields of `FocalNetConfig` to replace. Larger `focal_windows` and more `focal_levels` adapt the
        weights: kernels are padded with zeros, and added levels start with zero gates. For a UPerNet or a detector,
        only `use_postln` and `normalize_modulator`, which shapes do not determine.

    Raises:
      UserError: `path` has no readable weights, they do not fit `name` or the options, or there are several models to
        choose from.
      RunFailedError: the hub cannot be reached and its cache does not contain the weights, or the download failed.

    Warns:
      UserWarning: the file's dtype is not float32; reading needed a decision that affects the outputs, such as the
        choice of one of several models, of the final norm or of the classifier; or the file has a layer that normalizes
        images, which the caller must do instead.
    """
    options = checked_fields(options)
    task = weights_task(path, weights) if head == "keep" else TASKS[0]
    if task in _DENSE:
        return _load_dense(task, path, name, weights, dtype, options)
    not_from_shapes = {key: options[key] for key in NOT_FROM_SHAPES if key in options}
    read = read_weights(path, name, not_from_shapes, which=weights, head=head)
    if read.dtype != "float32":
        warnings.warn(f"{path} contains {read.dtype} weights; they are converted to float32", stacklevel=2)
    read.warn(path)
    config = dataclasses.replace(read.config, **options)
    if config != read.config or head != "keep":
        read = adapt(read, config, head=head)
    return model_of(read, dtype)


# By task: functions that read the weights of a model with a FocalNet as its backbone, and that build this model.
_DENSE = {"segmentation": (read_upernet, upernet_of), "detection": (read_detector, detector_of)}


def _load_dense(
    task: str, path: str | Path, name: str | None, which: str | None, dtype: Any, options: Any
) -> nnx.Module:
    read_model, build = _DENSE[task]
    given = {key: value for key, value in options.items() if key in NOT_FROM_SHAPES}
    if others := sorted(options.keys() - given.keys()):
        raise UserError(f"{path} has weights of {task}, whose {others[0]} cannot be replaced: leave it out")
    read = read_model(path, name, given, which=which)
    if read.dtype != "float32":
        warnings.warn(f"{path} contains {read.dtype} weights; they are converted to float32", stacklevel=3)
    for decision in read.decisions:
        warnings.warn(f"{path}: {decision}", stacklevel=3)
    return build(read, dtype)


def model_of(weights: Weights, dtype: str | Any = "float32") -> FocalNet:
    """Returns the FocalNet with these weights and the precision policy `dtype`."""
    abstract = nnx.eval_shape(lambda: FocalNet(weights.config, precision=get_precision(dtype), rngs=nnx.Rngs(0)))
    graph, _ = nnx.split(abstract)
    return nnx.merge(graph, jax.tree.map(jnp.asarray, weights.params))


@dataclass(frozen=True)
class Loaded:
    """Parameters for a model, a description of their source, and the class names and preprocessing stored with them."""

    params: Any
    source: str  # path, format, dtype and notes, for logs
    info: WeightsInfo
    statistics: Any = field(default_factory=dict)  # variables that are not parameters; {} if none were requested


def load_into(
    path: str,
    config: FocalNetConfig,
    like: Any,
    *,
    statistics: Any = None,
    head: str = "keep",
    surgery: bool = True,
    seed: int = 0,
    which: str | None = None,
) -> Loaded:
    """Returns the weights at `path` as parameters of a model of `config`.

    With `head` "drop" the classifier may be missing from the result; the caller then initialises it.

    Args:
      path: path of the weights, see `load_model`.
      config: config of the target model.
      like: parameters of the model, as arrays or shapes. The result has the same shardings.
      statistics: variables of the model that are not parameters, as arrays or shapes; read only from checkpoints of
        this package. None to read none.
      head: treatment of the classifier: "keep", "drop" or "remap", see `adapt`.
      surgery: whether focal windows and levels may grow. Evaluation passes False, because it must not change the model.
      seed: seed of initialised parameters.
      which: selection among several weights in the file, see `read_weights`.

    Raises:
      UserError: `path` has no readable weights, or the weights do not fit the model.
    """
    if is_checkpoint(path) and head != "remap":
        checkpoint = find_checkpoint(path)
        check_which(checkpoint, which)
        metadata = read_metadata(checkpoint)
        held = model_from_metadata(metadata["model"])[1] if metadata.get("model") else config
        check_adaptable(held, config, surgery=surgery)
        if not needs_surgery(held, config):
            # Each device reads only its shard.
            source = f"{checkpoint}{' (averaged weights)' if weights_item(checkpoint) == 'ema' else ''}"
            held = load_statistics(checkpoint, statistics, head=head) if statistics else {}
            params = load_params(checkpoint, like, head=head)
            warn_non_finite(path, params)
            return Loaded(params, source, checkpoint_info(metadata), held)
    assumed = {key: getattr(config, key) for key in NOT_FROM_SHAPES}
    weights = read_weights(path, assumed=assumed, which=which, head=head)
    weights = adapt(weights, config, head=head, surgery=surgery, seed=seed)
    warn_non_finite(path, weights.params)
    params = jax.tree.map(lambda value, leaf: jax.device_put(value, leaf.sharding), weights.params, like)
    return Loaded(params, f"{path} ({'; '.join((weights.format, weights.dtype, *weights.notes))})", weights.info)


def load_backbone(
    path: str, config: FocalNetConfig, like: Any, prefix: str, *, seed: int = 0, which: str | None = None
) -> Loaded:
    """Returns the patch embedding and the stages of the weights at `path`, as part of a larger model's parameters.

    The final norm and the classifier of the weights are left out; the caller initialises all other parameters. Focal
    windows and levels may grow, see `adapt`.

    Args:
      path: path of the weights of a FocalNet, see `load_model`.
      config: config of the backbone.
      like: parameters of the larger model, as arrays or shapes. The result has the same shardings.
      prefix: prefix of the backbone's parameters in `like`, such as "backbone/".
      seed: seed of initialised parameters.
      which: selection among several weights in the file, see `read_weights`.

    Raises:
      UserError: `path` has no readable weights, or the weights do not fit the backbone.
    """
    assumed = {key: getattr(config, key) for key in NOT_FROM_SHAPES}
    weights = read_weights(path, assumed=assumed, which=which, head="drop")
    notes = weights.notes
    weights = adapt(weights, dataclasses.replace(config, num_classes=0), head="drop", seed=seed)
    warn_non_finite(path, weights.params)
    notes = [*notes, *(note for note in weights.notes if note not in notes and note != "no classifier")]
    wanted = named_leaves(like)
    values = {prefix + name: value for name, value in named_leaves(weights.params).items()}
    placed = {name: jax.device_put(values[name], wanted[name].sharding) for name in values if name in wanted}
    texts = (
        weights.format,
        weights.dtype,
        *notes,
        "only the backbone: the head was left out, and everything after the backbone is newly initialised",
    )
    info = dataclasses.replace(weights.info, classes=(), words=None)
    return Loaded(nested(placed), f"{path} ({'; '.join(texts)})", info)


def warn_non_finite(path: str, params: Any) -> None:
    """Prints a warning to stderr if parameters are NaN or infinite."""
    if broken := describe_non_finite(params):
        print(f"warning: {path}: {broken}", file=sys.stderr)
