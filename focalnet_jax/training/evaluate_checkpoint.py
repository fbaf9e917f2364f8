"""Evaluation of a checkpoint by itself."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from focalnet_jax.checkpoint.integrity import MANIFEST
from focalnet_jax.checkpoint.steps import find_checkpoint, read_metadata
from focalnet_jax.config import replaced, with_stored
from focalnet_jax.convert.files import is_checkpoint, sha256
from focalnet_jax.convert.load import load_into
from focalnet_jax.distributed.startup import check_same, ends_with_the_others
from focalnet_jax.training.agreement import check_same_data, check_same_run
from focalnet_jax.training.classes import label_for, loaded_classifier
from focalnet_jax.training.evaluation import evaluate
from focalnet_jax.training.preprocessing import weights_preprocessing
from focalnet_jax.training.resolve import model_config, resolve
from focalnet_jax.training.setup import keep_compiled, open_eval_data, run_mesh
from focalnet_jax.training.step import abstract_params, make_eval_step, model_graph
from focalnet_jax.training.writers import to_json


@ends_with_the_others()
def evaluate_checkpoint(
    config: FrozenConfigDict, path: str, which: str | None = None, *, named: Collection[str] = ()
) -> dict[str, float | int | str]:
    """Evaluates the checkpoint at `path` on the config's evaluation split; prints the result as one JSON line.

    `which` chooses among several models in one file, as for `read_weights`. Pictures are prepared as the weights state
    it, but for the keys of the config that are `named`.

    Raises:
      UserError: no checkpoint there, or it does not fit the config's model; data that does not fit.
    """
    check_same_run(config)
    keep_compiled(config.compilation_cache)
    mesh = run_mesh(config)
    if is_checkpoint(path):  # of a run: as it was trained
        stored = read_metadata(find_checkpoint(path)).get("config", {})
        config = _held_out_as_stored(with_stored(config, stored), stored, named)
    config = resolve(config, mesh, evaluated=path, which=which)
    data = open_eval_data(config, mesh)
    check_same_data(data.source)
    check_same({"--checkpoint": f"SHA-256 {_fingerprint(path)}"})
    model = model_config(config)
    graph, init_params = model_graph(model, config.precision, mesh)
    loaded = load_into(path, model, abstract_params(init_params, mesh), surgery=False, which=which)
    data = label_for(config, data, loaded_classifier(config, loaded, path))
    examples = f"{len(data.source)} examples of {config.data.source}, {config.data.eval_split}"
    if description := getattr(data.source, "description", ""):
        print(f"held out   {description}")
    print(f"evaluating {loaded.source} on {examples}")
    how = weights_preprocessing(config, loaded.stated, named)
    step = make_eval_step(graph, mesh, data.competing, how.normalization)
    result = evaluate(step, loaded.params, replace(data, preprocessing=how).batches(), mesh)
    if not math.isfinite(result["loss"]):
        print(f"warning: the loss is {result['loss']}: the weights, or what they give, are no numbers", file=sys.stderr)
    if isinstance(data.competing, np.ndarray):
        result["subset_classes"] = int(data.competing.sum())
    result |= {"model": config.model.name, "checkpoint": loaded.source}
    print(to_json(result))
    return result


def _held_out_as_stored(config: FrozenConfigDict, stored: dict[str, Any], named: Collection[str]) -> FrozenConfigDict:
    """The config with the share that the run held out: of a larger one, a part was trained on."""
    share, asked = stored.get("data", {}).get("held_out", 0.0), config.data.held_out
    if not share or not asked or share == asked:
        return config
    if "data.held_out" not in named:
        return replaced(config, {"data.held_out": share})
    if asked > share:
        print(
            f"warning: data.held_out={asked}, but the run held out {share}: it was trained on the rest of these "
            "images, if they are its own",
            file=sys.stderr,
        )
    return config


def _fingerprint(path: str) -> str:
    """What lies at the path of a checkpoint, in the same words in all processes that see the same."""
    if jax.process_count() == 1:
        return path
    return sha256(find_checkpoint(path) / MANIFEST if is_checkpoint(path) else Path(path))
