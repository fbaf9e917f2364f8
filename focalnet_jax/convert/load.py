"""A model with the weights of a file."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from focalnet_jax.checkpoint.manager import find_checkpoint, load_params, read_metadata
from focalnet_jax.convert.adapt import adapt, check_adaptable, needs_surgery
from focalnet_jax.convert.files import is_checkpoint
from focalnet_jax.convert.huggingface import labels_beside
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.data.class_lists import NUM_22K, class_list
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNet, FocalNetConfig
from focalnet_jax.model.precision import get_precision
from focalnet_jax.model.variants import checked_fields, model_from_metadata


def load_model(
    path: str | Path, name: str | None = None, *, head: str = "keep", dtype: str | Any = "float32", **options: Any
) -> FocalNet:
    """The model whose weights lie at `path`, whatever their format.

    Args:
      path: a `.pth`, a `.safetensors` (or its index), a Hugging Face directory, a workdir or a checkpoint.
      name: the variant it is; by default it is recognised.
      head: with another `num_classes`: "drop" for a fresh classifier, "remap" from ImageNet-22K to ImageNet-1K.
      dtype: precision policy, "float32" or "bfloat16"; parameters are float32 in both.
      **options: fields of `FocalNetConfig` to replace. Larger `focal_windows` and more `focal_levels` adapt the
        weights: kernels are padded with zeros, added levels start with zero gates.

    Raises:
      UserError: nothing readable at `path`, or it is another model than asked for.

    Warns:
      UserWarning: the file holds less precise numbers than float32.
    """
    options = checked_fields(options)
    untold = {key: options[key] for key in ("use_postln", "normalize_modulator") if key in options}
    weights = read_weights(path, name, untold)
    if weights.dtype != "float32":
        warnings.warn(f"{path} holds {weights.dtype}; parameters are float32", stacklevel=2)
    config = dataclasses.replace(weights.config, **options)
    if config != weights.config or head != "keep":
        weights = adapt(weights, config, head=head)
    abstract = nnx.eval_shape(lambda: FocalNet(config, precision=get_precision(dtype), rngs=nnx.Rngs(0)))
    graph, _ = nnx.split(abstract)
    return nnx.merge(graph, jax.tree.map(jnp.asarray, weights.params))


def class_names(path: str) -> tuple[str, ...] | None:
    """What the classes of the weights at `path` are called, where a checkpoint or a Hugging Face directory says so."""
    if is_checkpoint(path):
        return tuple(read_metadata(find_checkpoint(path)).get("classes") or ()) or None
    return labels_beside(Path(path)) if Path(path).is_dir() else None


def _check_order(path: str) -> None:
    """Refuses to remap a classifier that was trained on the classes in another order than the list's."""
    names, listed = class_names(path), [synset for synset, _ in class_list(NUM_22K)]
    if names and list(names) != listed:
        raise UserError(
            f"{path} was trained on {len(names)} classes that are not ImageNet-22K's in the order of its class list, "
            "so remap would mix them up; prepare the data with focalnet_jax.data.prepare, or drop the classifier"
        )


def load_into(
    path: str, config: FocalNetConfig, like: Any, *, head: str = "keep", surgery: bool = True, seed: int = 0
) -> tuple[Any, str]:
    """The weights at `path` as parameters of a model of `config`, and in words where they come from.

    A dropped classifier may be left out; what is fresh is the caller's then.

    Args:
      path: as for `load_model`.
      config: the model's.
      like: its parameters, arrays or shapes, whose shardings the result has.
      head: "keep", "drop" or "remap", see `adapt`.
      seed: of what is fresh.
      surgery: whether windows and levels may differ; what is only measured must not be changed.

    Raises:
      UserError: nothing readable at `path`, or it does not fit.
    """
    if is_checkpoint(path) and head == "remap":
        _check_order(path)
    elif is_checkpoint(path):
        checkpoint = find_checkpoint(path)
        stored = read_metadata(checkpoint).get("model")
        held = model_from_metadata(stored)[1] if stored else config
        check_adaptable(held, config, surgery=surgery)
        if not needs_surgery(held, config):
            # Straight to the devices, each its part.
            return load_params(checkpoint, like, head=head), str(checkpoint)
    assumed = {"use_postln": config.use_postln, "normalize_modulator": config.normalize_modulator}
    weights = read_weights(path, assumed=assumed)
    weights = adapt(weights, config, head=head, surgery=surgery, seed=seed)
    params = jax.tree.map(lambda value, leaf: jax.device_put(value, leaf.sharding), weights.params, like)
    return params, f"{path} ({'; '.join((weights.format, weights.dtype, *weights.notes))})"
