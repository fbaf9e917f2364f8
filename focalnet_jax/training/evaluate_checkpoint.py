"""Evaluation of a checkpoint without a training run."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
from ml_collections import FrozenConfigDict

from focalnet_jax.checkpoint.integrity import MANIFEST
from focalnet_jax.checkpoint.steps import find_checkpoint, read_metadata
from focalnet_jax.convert.files import is_checkpoint, sha256
from focalnet_jax.distributed.compilation_cache import keep_compiled
from focalnet_jax.distributed.host_values import check_same
from focalnet_jax.distributed.mesh import run_mesh
from focalnet_jax.distributed.startup import ends_with_the_others, is_first, warn
from focalnet_jax.errors import UserError
from focalnet_jax.hub.download import fingerprint
from focalnet_jax.settings import MAIN
from focalnet_jax.storage.address import to_path
from focalnet_jax.system.files import write_whole
from focalnet_jax.tasks import task_kind
from focalnet_jax.training.agreement import check_same_data, check_same_run
from focalnet_jax.training.data import open_eval_data
from focalnet_jax.training.evaluation import evaluate
from focalnet_jax.training.progress import aligned
from focalnet_jax.training.resolve import resolve
from focalnet_jax.training.state import Variables, abstract_variables, model_graph
from focalnet_jax.training.step import make_eval_step
from focalnet_jax.training.stored_config import with_stored
from focalnet_jax.training.writers import to_json


@ends_with_the_others()
def evaluate_checkpoint(
    config: FrozenConfigDict,
    path: str,
    which: str | None = None,
    *,
    named: Collection[str] = (),
    results: Path | None = None,
) -> dict[str, float | int | str]:
    """Evaluates a checkpoint with all evaluations of a config, and prints the metrics as one line of JSON.

    Args:
      config: config of the evaluation. Keys that are left to be chosen get the values of the checkpoint's run.
      path: a workdir, a step, or weights in another format.
      which: name of the weights in a file with several models, see `read_weights`.
      named: config keys set on the command line. They replace the preprocessing that is stored with the weights.
      results: file to write the predictions of the evaluation `MAIN` to, as JSON in the format of the task's usual
        tools, or None.

    Returns:
      The printed object: metrics, `model` and `checkpoint`.

    Raises:
      UserError: there is no checkpoint at `path`, or it does not fit the model or the data of the config.
    """
    check_same_run(config)
    keep_compiled(config.compilation_cache)
    mesh, kind = run_mesh(config.mesh.to_dict()), task_kind(config.task)
    if is_checkpoint(path):  # keys that are left to be chosen get the values of the run
        stored = read_metadata(find_checkpoint(path)).get("config", {})
        config = kind.evaluated_config(with_stored(config, stored), stored, named)
    config = resolve(config, mesh, evaluated=path, which=which)
    task = kind.make_task(config)
    check_same_data(*(evaluation.source for evaluation in task.evaluations().values()))
    check_same({"--checkpoint": f"SHA-256 {_fingerprint(path)}"})
    graph, init = model_graph(task, config.precision, mesh)
    like = abstract_variables(init, mesh)
    loaded = task.load(path, like, which=which, evaluated=True)
    task = task.evaluate(loaded, path, named)
    opened, result = open_eval_data(config, mesh, task), {}
    variables = Variables(loaded.params, loaded.statistics)
    for name, data in opened.items():
        source = data.evaluation.source
        if description := getattr(source, "description", ""):
            print(f"held out   {description}")
        which = f"{config.data.source}, {config.data.eval_split}" if name == MAIN else f"evaluation {name}"
        print(f"evaluating {loaded.source} on {len(source)} examples of {which}")
        step = make_eval_step(graph, mesh, data.evaluation)
        metrics = evaluate(step, variables, data.batches(), mesh, data.evaluation)
        if broken := [f"{metric} is {value}" for metric, value in metrics.items() if not math.isfinite(value)]:
            warn(f"{', '.join(broken)}: the weights or the outputs are NaN or infinite")
        if table := data.evaluation.table():
            print(aligned(table))
        if results is not None and name == MAIN and is_first():
            _write_results(results, data.evaluation.records())
        metrics |= data.evaluation.details()
        result |= metrics if name == MAIN else {f"{name}/{metric}": value for metric, value in metrics.items()}
    result |= {"model": config.model.name, "checkpoint": loaded.source}
    print(to_json(result))
    return result


def _fingerprint(path: str) -> str:
    """Returns a digest that is equal in all processes that see the same checkpoint; for a single process, the path."""
    if jax.process_count() == 1:
        return path
    return fingerprint(path) or sha256(find_checkpoint(path) / MANIFEST if is_checkpoint(path) else to_path(path))


def _write_results(path: Path, records: list[dict[str, Any]]) -> None:
    """Writes the predictions of an evaluation as JSON. Raises `UserError` if the file cannot be written."""
    try:
        write_whole(path, json.dumps(records))
    except OSError as error:
        raise UserError(f"cannot write --results {path}: {error.strerror}; choose another file") from error
    print(f"wrote {len(records)} predictions to {path}")
