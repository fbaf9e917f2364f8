"""Extracts the features of the images of a config with the weights of a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

import jax
import numpy as np
from flax import nnx
from ml_collections import FrozenConfigDict

from focalnet_jax.config import replaced
from focalnet_jax.convert.load import model_of
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.data.held_out import open_split
from focalnet_jax.data.normalization import normalize
from focalnet_jax.distributed.compilation_cache import keep_compiled
from focalnet_jax.distributed.mesh import check_batch_size, put_batch, replicated, run_mesh
from focalnet_jax.errors import UserError
from focalnet_jax.tasks.classification.accuracy import Accuracy
from focalnet_jax.tasks.classification.classes import label_evaluation
from focalnet_jax.tasks.classification.host import make_host
from focalnet_jax.tasks.classification.preprocessing import weights_preprocessing
from focalnet_jax.training.data import read_options
from focalnet_jax.training.evaluation import EvalData
from focalnet_jax.training.resolve import eval_batch_size, resolve
from focalnet_jax.transfer.probes import Features

_SECONDS = 5.0  # between progress lines


def extract_features(
    config: FrozenConfigDict,
    path: str,
    name: str | None = None,
    options: Mapping[str, bool] | None = None,
    which: str | None = None,
    *,
    named: Collection[str] = (),
) -> tuple[Features, Features]:
    """Computes the features of every image of the training and the evaluation split with the model at `path`.

    Args:
      config: the config, whose `data` keys select the images.
      path: file or directory of the weights, in any format that `convert.weights.read_weights` supports. Their
        classifier is not used.
      name: name of the model variant; by default, it is recognised from the weights.
      options: `use_postln` and `normalize_modulator`, which the weights alone do not determine.
      which: selection among several weights, such as "ema" or a key of the file.
      named: config keys that take precedence over the preprocessing stored with the weights.

    Returns:
      The features of the training split and of the evaluation split.

    Raises:
      UserError: the weights or the data cannot be read, an image has several labels, the training split lacks a class,
        `eval_classes` is set, there are several processes, or the config or the weights are of another task than
        classification.
    """
    if config.task != "classification":
        raise UserError(f"transfer needs a recipe for classification; this recipe is for {config.task}")
    if config.eval_classes is not None:
        raise UserError(
            f"eval_classes={config.eval_classes} selects outputs of the classifier, which transfer does not use: leave "
            "eval_classes out"
        )
    if jax.process_count() > 1:
        raise UserError("transfer runs in one process, on all devices of its machine: start only one process")
    keep_compiled(config.compilation_cache)
    mesh = run_mesh(config.mesh.to_dict())
    config = resolve(config, mesh, evaluated=path, which=which, name=name, options=options)
    weights = read_weights(path, name, options, which=which)
    weights.warn(path)
    how = weights_preprocessing(config, weights.info, named)
    train, test = (open_split(config.data, split) for split in (config.data.train_split, config.data.eval_split))
    test, _ = label_evaluation(replaced(config, {"model.num_classes": len(train.class_names)}), test, train)
    key = "batch_size" if config.eval_batch_size is None else "eval_batch_size"
    batch_size = check_batch_size(key, eval_batch_size(config, mesh), mesh)
    host, reading = make_host(config, how), read_options(config, mesh)
    splits = [EvalData(Accuracy(source), host, batch_size, reading) for source in (train, test)]
    graph, params = nnx.split(model_of(weights, config.precision))
    params = jax.device_put(params, replicated(mesh))

    @jax.jit
    def features(params: nnx.State, images: jax.Array) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return nnx.merge(graph, params).pool(normalize(images, how.normalization))

    def features_of(data: EvalData) -> Features:
        values, labels, begun, printed = [], [], time.monotonic(), time.monotonic()
        total = len(data.evaluation.source)
        for batch in data.batches():
            sharded = put_batch(batch, mesh)
            kept = np.asarray(batch["mask"]) > 0
            label = np.asarray(batch["label"])
            if label.ndim > 1:
                raise UserError(f"transfer needs one label per image, but {data.evaluation.source.name(0)} has several")
            values.append(np.asarray(features(params, sharded["image"]))[kept])
            labels.append(label[kept])
            now, done = time.monotonic(), sum(map(len, labels))
            if now - printed > _SECONDS:
                rate = done / (now - begun)
                eta = (total - done) / rate
                print(f"{done}/{total}  {rate:.0f} images/s  eta {eta:.0f} s")
                printed = now
        return Features(np.concatenate(values), np.concatenate(labels).astype(np.int64))

    of_train, of_test = map(features_of, splits)
    return of_train, of_test
