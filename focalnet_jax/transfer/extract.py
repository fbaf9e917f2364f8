"""Features of a config's data by the weights of a checkpoint."""

from __future__ import annotations

import time
import warnings
from collections.abc import Collection, Mapping

import jax
import numpy as np
from flax import nnx
from ml_collections import FrozenConfigDict

from focalnet_jax.convert.load import model_of
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.data.mixing import normalize
from focalnet_jax.distributed.mesh import put_batch, replicated
from focalnet_jax.errors import UserError
from focalnet_jax.training.classes import label_evaluation
from focalnet_jax.training.preprocessing import weights_preprocessing
from focalnet_jax.training.resolve import resolve
from focalnet_jax.training.setup import EvalData, keep_compiled, open_eval_data, run_mesh
from focalnet_jax.transfer.probes import Features

_SECONDS = 5.0  # between two lines of progress


def extract_features(
    config: FrozenConfigDict,
    path: str,
    name: str | None = None,
    options: Mapping[str, bool] | None = None,
    which: str | None = None,
    *,
    named: Collection[str] = (),
) -> tuple[Features, Features]:
    """Of the training and of the evaluation split, each picture once, by the model at `path`, whatever its classifier.

    `name`, `options` and `which` are what is known of its weights, as for `read_weights`. Pictures are prepared as the
    weights state it, but for the keys of the config that are `named`.

    Raises:
      UserError: no weights there; data that cannot be read; several labels a picture; classes that the training split
        lacks; more than one process.
    """
    if jax.process_count() > 1:
        raise UserError("features are extracted by one process, with all devices of its machine")
    keep_compiled(config.compilation_cache)
    mesh = run_mesh(config)
    config = resolve(config, mesh, evaluated=path, which=which)
    weights = read_weights(path, name, options, which=which)
    for decision in weights.decisions:
        warnings.warn(f"{path}: {decision}", stacklevel=2)
    how = weights_preprocessing(config, weights.stated, named)
    names = config.data.train_split, config.data.eval_split
    known, asked = (open_eval_data(config, mesh, split, how) for split in names)
    splits = known, label_evaluation(config, asked, known.source)
    graph, params = nnx.split(model_of(weights, config.precision))
    params = jax.device_put(params, replicated(mesh))

    @jax.jit
    def features(params: nnx.State, images: jax.Array) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return nnx.merge(graph, params).pool(normalize(images, how.normalization))

    def of(data: EvalData) -> Features:
        values, labels, begun, told = [], [], time.monotonic(), time.monotonic()
        for batch in data.batches():
            placed = put_batch(batch, mesh)
            kept = np.asarray(batch["mask"]) > 0
            label = np.asarray(batch["label"])
            if label.ndim > 1:
                raise UserError(f"{data.source.name(0)} has several labels; transfer needs one a picture")
            values.append(np.asarray(features(params, placed["image"]))[kept])
            labels.append(label[kept])
            now, done = time.monotonic(), sum(map(len, labels))
            if now - told > _SECONDS:
                rate = done / (now - begun)
                print(f"{done}/{len(data.source)}  {rate:.0f} images/s  eta {(len(data.source) - done) / rate:.0f} s")
                told = now
        return Features(np.concatenate(values), np.concatenate(labels).astype(np.int64))

    train, test = map(of, splits)
    return train, test
