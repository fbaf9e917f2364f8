"""A model with the weights of a file."""

from __future__ import annotations

import dataclasses
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
from focalnet_jax.convert.files import is_checkpoint
from focalnet_jax.convert.huggingface import WeightsInfo
from focalnet_jax.convert.weights import Weights, check_which, read_weights, stated_by
from focalnet_jax.model import FocalNet, FocalNetConfig
from focalnet_jax.model.precision import get_precision
from focalnet_jax.model.variants import checked_fields, model_from_metadata


def load_model(
    path: str | Path,
    name: str | None = None,
    *,
    head: str = "keep",
    dtype: str | Any = "float32",
    weights: str | None = None,
    **options: Any,
) -> FocalNet:
    """The model whose weights lie at `path`, whatever their format.

    Args:
      path: a torch or safetensors file (or the index of its shards) under any name, a directory of Hugging Face or
        DeepSpeed, a workdir or a checkpoint.
      name: the variant it is; by default it is recognised.
      head: with another `num_classes`: "drop" for a fresh classifier, "remap" from ImageNet-22K to ImageNet-1K.
      dtype: precision policy, "float32" or "bfloat16"; parameters are float32 in both.
      weights: which weights of several: "ema" for averaged ones, a key or prefix such as "teacher", or a file of a
        directory such as "model_1".
      **options: fields of `FocalNetConfig` to replace. Larger `focal_windows` and more `focal_levels` adapt the
        weights: kernels are padded with zeros, added levels start with zero gates.

    Raises:
      UserError: nothing readable at `path`, it is another model than asked for, or holds several to choose from.

    Warns:
      UserWarning: the file holds numbers of another type than float32; one of several models was taken; the final norm
        or the classifier come from around the model, or were left; a layer before it normalizes pictures, which the
        caller then does.
    """
    options = checked_fields(options)
    untold = {key: options[key] for key in ("use_postln", "normalize_modulator") if key in options}
    read = read_weights(path, name, untold, which=weights, head=head)
    if read.dtype != "float32":
        warnings.warn(f"{path} holds {read.dtype}; parameters are float32", stacklevel=2)
    for decision in read.decisions:
        warnings.warn(f"{path}: {decision}", stacklevel=2)
    config = dataclasses.replace(read.config, **options)
    if config != read.config or head != "keep":
        read = adapt(read, config, head=head)
    return model_of(read, dtype)


def model_of(weights: Weights, dtype: str | Any = "float32") -> FocalNet:
    """The model with these weights."""
    abstract = nnx.eval_shape(lambda: FocalNet(weights.config, precision=get_precision(dtype), rngs=nnx.Rngs(0)))
    graph, _ = nnx.split(abstract)
    return nnx.merge(graph, jax.tree.map(jnp.asarray, weights.params))


@dataclass(frozen=True)
class Loaded:
    """Parameters for a model, and what is known of them."""

    params: Any
    source: str  # in words
    stated: WeightsInfo
    statistics: Any = field(default_factory=dict)  # variables that are no parameters; {} where none were asked for


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
    """The weights at `path` as parameters of a model of `config`.

    A dropped classifier may be left out; what is fresh is the caller's then.

    Args:
      path: as for `load_model`.
      config: the model's.
      like: its parameters, arrays or shapes, whose shardings the result has.
      statistics: its variables that are no parameters, as `like`; read from a checkpoint of this package alone.
      head: "keep", "drop" or "remap", see `adapt`.
      surgery: whether windows and levels may differ; what is only measured must not be changed.
      seed: of what is fresh.
      which: which weights of a file with several, as for `read_weights`.

    Raises:
      UserError: nothing readable at `path`, or it does not fit.
    """
    if is_checkpoint(path) and head != "remap":
        checkpoint = find_checkpoint(path)
        check_which(checkpoint, which)
        metadata = read_metadata(checkpoint)
        held = model_from_metadata(metadata["model"])[1] if metadata.get("model") else config
        check_adaptable(held, config, surgery=surgery)
        if not needs_surgery(held, config):
            # Straight to the devices, each its part.
            source = f"{checkpoint}{' (averaged weights)' if weights_item(checkpoint) == 'ema' else ''}"
            held = load_statistics(checkpoint, statistics) if statistics else {}
            return Loaded(load_params(checkpoint, like, head=head), source, stated_by(metadata), held)
    assumed = {"use_postln": config.use_postln, "normalize_modulator": config.normalize_modulator}
    weights = read_weights(path, assumed=assumed, which=which, head=head)
    weights = adapt(weights, config, head=head, surgery=surgery, seed=seed)
    params = jax.tree.map(lambda value, leaf: jax.device_put(value, leaf.sharding), weights.params, like)
    return Loaded(params, f"{path} ({'; '.join((weights.format, weights.dtype, *weights.notes))})", weights.stated)
