"""The jitted functions that advance a train state and measure a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from focalnet_jax.distributed import exchange
from focalnet_jax.distributed.mesh import compiler_options, replicated
from focalnet_jax.distributed.sharding import shardings
from focalnet_jax.model.layers import example_keys
from focalnet_jax.parameters import named_leaves
from focalnet_jax.tasks.task import Evaluation, Metrics
from focalnet_jax.training.health import judge, largest, where_good
from focalnet_jax.training.state import (
    Params,
    TrainSpec,
    TrainState,
    Variables,
    augmentation_key,
    merge_model,
    random_keys,
)

Arrays = dict[str, jax.Array]


def make_train_step(spec: TrainSpec) -> Callable[[TrainState, Arrays], tuple[TrainState, Metrics]]:
    """Returns the jitted function that updates a train state with a global batch.

    The batch has the arrays `[B, ...]` that the task's host makes. The input state is donated.

    If the loss, a gradient or a new statistic is NaN or infinite, or if there is a loss spike, the update is skipped,
    see `health`: parameters, optimizer state, statistics and averages do not change. The step counter and the learning
    rate schedule still advance.

    The returned metrics are scalars:

    - `train/loss` and its named parts, `train/grad_norm` (before clipping), `train/update_norm`, `train/learning_rate`,
    - `train/param_norm`, the norm of the parameters after the update,
    - for a model with statistics, `train/statistics_max`, the largest absolute value of the new statistics, even if the
      update is skipped,
    - `train/skipped` and `train/skipped_in_a_row`, the numbers of updates skipped so far and skipped consecutively,
    - with `log_statistics`, `params/NAME` and `gradients/NAME`, the norms of every parameter and its gradient.
    """

    def loss_of(params: Params, statistics: Params, batch: Any, keys: jax.Array) -> tuple[jax.Array, Any]:
        if spec.frozen:
            stays = spec.frozen(params)
            params = jax.tree.map(lambda param, stay: jax.lax.stop_gradient(param) if stay else param, params, stays)
        model = merge_model(spec.graph, Variables(params, statistics))
        loss, parts = spec.task.loss(model, batch, keys)
        return loss, (parts, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param))))

    differentiated = jax.value_and_grad(loss_of, has_aux=True)

    def loss_and_gradients(state: TrainState, batch: Any, keys: jax.Array) -> tuple[Any, Params]:
        if spec.accumulate_steps == 1:
            return differentiated(state.params, state.statistics, batch, keys)

        # Micro-batches have equal sizes, so the mean of their losses is the loss of the batch.
        def add(carry: Any, micro_batch: Any) -> tuple[Any, None]:
            total, statistics = carry
            (loss, (parts, statistics)), gradients = differentiated(state.params, statistics, *micro_batch)
            return (jax.tree.map(jnp.add, total, (loss, parts, gradients)), statistics), None

        micro_batches = _with_counts(
            spec, state, jax.tree.map(partial(_split_batch, spec.accumulate_steps), (batch, keys))
        )
        shapes = jax.eval_shape(loss_of, state.params, state.statistics, *jax.tree.map(lambda x: x[0], micro_batches))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[1][0]))
        zero = (*zeros, jax.tree.map(jnp.zeros_like, state.params))
        (total, statistics), _ = jax.lax.scan(add, (zero, state.statistics), micro_batches)
        loss, parts, gradients = jax.tree.map(lambda value: value / spec.accumulate_steps, total)
        return (loss, (parts, statistics)), gradients

    def step(state: TrainState, batch: Arrays) -> tuple[TrainState, Metrics]:
        # The key depends only on seed and step, so a resumed run draws the same numbers as an uninterrupted one.
        key = jax.random.fold_in(random_keys(spec.seed)[1], state.step)
        prepared = spec.task.prepare(exchange.without(batch), augmentation_key(spec.seed, state.step))
        size = len(jax.tree.leaves(prepared)[0])
        keys = example_keys(key, size)  # one per example, so that micro-batches draw the same numbers as a batch
        (loss, (parts, statistics)), gradients = loss_and_gradients(state, prepared, keys)
        # Each device reduces only the part of the gradients whose parameters it updates.
        gradients = jax.lax.with_sharding_constraint(gradients, shardings(gradients, spec.mesh))
        with jax.named_scope("optimizer"):
            state, metrics = _update(spec, state, loss, gradients, statistics)
        metrics |= {f"train/{name}": value for name, value in parts.items()}
        return state, exchange.with_sums(batch, metrics, metrics["train/param_norm"])

    @partial(jax.jit, donate_argnums=0, compiler_options=compiler_options(spec.mesh))
    def placed(state: TrainState, batch: Arrays) -> tuple[TrainState, Metrics]:
        with jax.sharding.use_abstract_mesh(spec.mesh.abstract_mesh):
            state, metrics = step(state, batch)
        # The new state has the sharding of the old state, so that it can be the input of the next update.
        whole = jax.tree.map(lambda _: replicated(spec.mesh), metrics)
        return jax.lax.with_sharding_constraint((state, metrics), (shardings(state, spec.mesh), whole))

    return placed


def _with_counts(spec: TrainSpec, state: TrainState, micro_batches: Any) -> Any:
    """Returns stacked micro-batches and their keys, with the entry `counts` added to every micro-batch.

    The entry is the mean of `Task.counts` over all micro-batches. If the task has no counts, nothing is added.
    """

    def count(micro_batch: Any) -> jax.Array | None:
        model = merge_model(spec.graph, Variables(state.params, state.statistics))
        return spec.task.counts(model, *micro_batch)

    if jax.eval_shape(count, jax.tree.map(lambda x: x[0], micro_batches)) is None:
        return micro_batches
    counts = jax.lax.stop_gradient(jnp.mean(jax.lax.map(count, micro_batches), axis=0))
    batch, keys = micro_batches
    return batch | {"counts": jnp.broadcast_to(counts, (spec.accumulate_steps, *counts.shape))}, keys


def _update(
    spec: TrainSpec, state: TrainState, loss: jax.Array, gradients: Params, statistics: Params
) -> tuple[TrainState, Metrics]:
    """Returns the next state and the metrics. A skipped update changes only the counters of steps and of `health`."""
    grad_norm = optax.tree.norm(gradients)
    statistics_max = largest(statistics)
    good, health = judge(state.health, loss, grad_norm, spec.spike_factor, statistics_max)
    updates, opt_state = spec.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema, ema_statistics = state.ema, state.ema_statistics
    if ema is not None:
        ema, ema_statistics = jax.tree.map(
            partial(_average, spec.ema_decay), (ema, ema_statistics), (params, statistics)
        )
    new = (params, opt_state, ema, statistics, ema_statistics)
    old = (state.params, state.opt_state, state.ema, state.statistics, state.ema_statistics)
    params, opt_state, ema, statistics, ema_statistics = where_good(good, new, old)
    metrics = {
        "train/loss": loss,
        "train/grad_norm": grad_norm,
        "train/update_norm": optax.tree.norm(updates),
        "train/param_norm": optax.tree.norm(params),
        "train/learning_rate": jnp.asarray(spec.schedule(state.step), jnp.float32),
        "train/skipped": health["skipped"],
        "train/skipped_in_a_row": health["in_a_row"],
    }
    if statistics_max is not None:
        metrics["train/statistics_max"] = statistics_max
    if spec.log_statistics:
        metrics |= _norms("params", params) | _norms("gradients", gradients)
    return TrainState(state.step + 1, params, opt_state, health, ema, statistics, ema_statistics), metrics


def _average(decay: float, mean: jax.Array, new: jax.Array) -> jax.Array:
    """Returns the moving average of a variable, or the new value of an integer variable, such as a counter."""
    if not jnp.issubdtype(mean.dtype, jnp.inexact):
        return new
    # In this form, the average of a variable that never changes is bitwise equal to the variable.
    return mean + (1 - decay) * (new - mean)


def _norms(kind: str, tree: Params) -> Metrics:
    return {f"{kind}/{name}": jnp.linalg.norm(leaf.ravel()) for name, leaf in named_leaves(tree).items()}


def _split_batch(parts: int, batch: jax.Array) -> jax.Array:
    """Splits a batch `[B, ...]` into micro-batches, stacked as `[parts, B / parts, ...]`.

    Each micro-batch has examples from every device, so no example moves to another device.
    """
    return batch.reshape(batch.shape[0] // parts, parts, *batch.shape[1:]).swapaxes(0, 1)


def make_eval_step(graph: nnx.GraphDef, mesh: Mesh, evaluation: Evaluation) -> Callable[[Variables, Arrays], Any]:
    """Returns the jitted function that measures a model on a global batch, see `Evaluation.measure`."""

    def placed(variables: Variables, batch: Arrays) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return evaluation.measure(merge_model(graph, variables), batch)

    return jax.jit(placed, out_shardings=replicated(mesh), compiler_options=compiler_options(mesh))
