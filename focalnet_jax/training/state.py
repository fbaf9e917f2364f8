"""The train state, created with its sharding on the devices of a mesh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from focalnet_jax.distributed.sharding import shardings
from focalnet_jax.model.precision import get_precision
from focalnet_jax.tasks.task import Task
from focalnet_jax.training.health import Health, fresh_health

Params = dict[str, Any]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All values that training changes, as a plain pytree.

    Attributes:
      step: number of steps so far, including skipped updates.
      params: parameters.
      opt_state: state of the optimizer.
      health: counters that detect failed updates, see `training.health`.
      ema: exponential moving average of `params`, or None if `ema_decay` is 0.
      statistics: variables that are not parameters, such as the running statistics of BatchNorm; may be empty.
      ema_statistics: exponential moving average of `statistics`; empty if `ema_decay` is 0.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    health: Health
    ema: Params | None = None
    statistics: Params = field(default_factory=dict)
    ema_statistics: Params = field(default_factory=dict)

    @property
    def result(self) -> Variables:
        """Variables to evaluate and export: the moving average, or the current values if `ema` is None."""
        if self.ema is None:
            return Variables(self.params, self.statistics)
        return Variables(self.ema, self.ema_statistics)

    def items(self) -> dict[str, Any]:
        """Returns the items of a checkpoint by name.

        The items are `params`, `training` (`step`, `opt_state` and `health`), and `ema`, `statistics` and
        `ema_statistics` unless they are empty.
        """
        training = {"step": self.step, "opt_state": self.opt_state, "health": self.health}
        others = {"ema": self.ema, "statistics": self.statistics, "ema_statistics": self.ema_statistics}
        return {"params": self.params, "training": training} | {name: tree for name, tree in others.items() if tree}

    @classmethod
    def from_items(cls, items: dict[str, Any]) -> TrainState:
        """Returns the state from the items of a checkpoint, see `items`."""
        others = {name: tree for name, tree in items.items() if name != "training"}
        return cls(**others, **items["training"])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Variables:
    """All variables of a model.

    Attributes:
      params: parameters.
      statistics: variables that are not parameters, such as the running statistics of BatchNorm; may be empty.
    """

    params: Params
    statistics: Params = field(default_factory=dict)


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Variables]:
    """Returns the static part of a model (its graph definition) and its variables."""
    graph, params, statistics = nnx.split(model, nnx.Param, ...)
    return graph, Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(statistics))


def merge_model(graph: nnx.GraphDef, variables: Variables) -> nnx.Module:
    """Returns a model from its static part and its variables; the inverse of `split_model`."""
    return nnx.merge(graph, *(part for part in (variables.params, variables.statistics) if part))


@dataclass(frozen=True)
class TrainSpec:
    """Everything that defines the training: task, static part of the model, optimizer, schedule and mesh."""

    task: Task
    graph: nnx.GraphDef
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    seed: int
    mesh: Mesh
    accumulate_steps: int = 1
    ema_decay: float = 0.0
    frozen: Callable[[Params], Any] | None = None  # returns a bool per parameter; None: no parameter is frozen
    spike_factor: float = 0.0  # updates with a loss above this multiple of the running mean are skipped; 0: no check
    log_statistics: bool = False  # whether the metrics include the norms of every parameter and of its gradient


Init = Callable[[jax.Array], Variables]  # returns freshly initialised variables for a PRNG key


def model_graph(task: Task, precision: str, mesh: Mesh) -> tuple[nnx.GraphDef, Init]:
    """Returns the static part of a task's model for a mesh, and the function that initialises its variables."""
    platform = mesh.devices.flat[0].platform
    graphs = []

    # Jitted, so that the graph and all callers share one trace: tracing takes most of the time to start a run.
    @jax.jit
    def init(key: jax.Array) -> Variables:
        graph, variables = split_model(task.build_model(get_precision(precision), nnx.Rngs(key), platform))
        graphs.append(graph)
        return variables

    jax.eval_shape(init, jax.random.key(0))
    return graphs[0], init


def init_state(spec: TrainSpec, init: Init) -> TrainState:
    """Returns the state of a new run, created directly on the devices with its sharding."""
    fresh = partial(_fresh_state, spec, init)
    return jax.jit(fresh, out_shardings=shardings(jax.eval_shape(fresh), spec.mesh))()


def abstract_state(spec: TrainSpec, init: Init) -> TrainState:
    """Returns a state of `jax.ShapeDtypeStruct`s with shardings, without computing values."""
    return _sharded(jax.eval_shape(partial(_fresh_state, spec, init)), spec.mesh)


def abstract_variables(init: Init, mesh: Mesh) -> Variables:
    """Returns a model's variables as `jax.ShapeDtypeStruct`s with shardings, without computing values."""
    return _sharded(jax.eval_shape(init, jax.random.key(0)), mesh)


def _fresh_state(spec: TrainSpec, init: Init) -> TrainState:
    variables = init(random_keys(spec.seed)[0])
    params, ema, ema_statistics = variables.params, None, {}
    if spec.ema_decay:
        ema, ema_statistics = jax.tree.map(jnp.copy, (params, variables.statistics))
    opt_state = spec.optimizer.init(params)
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, params, opt_state, fresh_health(), ema, variables.statistics, ema_statistics)


def _sharded(shapes: Any, mesh: Mesh) -> Any:
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, shardings(shapes, mesh)
    )


def random_keys(seed: int) -> jax.Array:
    """Returns independent PRNG keys `[3]`: for the initial weights, for the steps, and for augmentation."""
    return jax.random.split(jax.random.key(seed), 3)


def augmentation_key(seed: int, step: jax.Array | int) -> jax.Array:
    """Returns the PRNG key for `Task.prepare` in the update that follows `step` updates."""
    return jax.random.fold_in(random_keys(seed)[2], step)
