"""Evaluation of a checkpoint by itself."""

from __future__ import annotations

from ml_collections import FrozenConfigDict

from focalnet_jax.convert.files import is_checkpoint
from focalnet_jax.convert.load import class_names, load_into
from focalnet_jax.data.sources import check_labels
from focalnet_jax.training.evaluation import evaluate
from focalnet_jax.training.setup import check_classes, model_config, open_eval_data, run_mesh
from focalnet_jax.training.step import abstract_params, make_eval_step, model_graph
from focalnet_jax.training.writers import to_json


def evaluate_checkpoint(config: FrozenConfigDict, path: str) -> dict[str, float | int | str]:
    """Evaluates the checkpoint at `path` on the config's evaluation split; prints the result as one JSON line.

    Raises:
      UserError: no checkpoint there, or it does not fit the config's model; data that does not fit.
    """
    mesh = run_mesh(config)
    data = open_eval_data(config, mesh)
    trained = class_names(path)
    # What a Hugging Face directory calls them may be words for people; in the same words it must be the same order.
    if trained and (is_checkpoint(path) or sorted(trained) == sorted(data.source.class_names)):
        check_classes(config, trained, path, data.source)
    check_labels(data.source, config.eval_classes or config.model.num_classes)
    model = model_config(config)
    graph, init_params = model_graph(model, config.precision)
    params, source = load_into(path, model, abstract_params(init_params, mesh), surgery=False)
    print(f"evaluating {source} on {len(data.source)} examples of {config.data.source}, {config.data.eval_split}")
    result = evaluate(make_eval_step(graph, mesh, config.eval_classes), params, data.batches(), mesh)
    result |= {"model": config.model.name, "checkpoint": source}
    print(to_json(result))
    return result
