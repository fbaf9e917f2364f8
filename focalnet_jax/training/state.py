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
      step: number of batches so far.
      params: parameters.
      opt_state: state of the optimizer.
      health: see `training.health`.
      ema: average of `params`; None if the run keeps no average.
      statistics: variables that are not parameters, such as the running statistics of BatchNorm; {} if there are none.
      ema_statistics: average of `statistics`; {} if there is none.
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
        """The variables to evaluate and export: the average if there is one."""
        if self.ema is None:
            return Variables(self.params, self.statistics)
        return Variables(self.ema, self.ema_statistics)

    def items(self) -> dict[str, Any]:
        """Returns the items of a checkpoint: `params`, the averages and statistics if any, and `training`, the rest."""
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
    """All variables of a model: its parameters, and its statistics ({} if there are none)."""

    params: Params
    statistics: Params = field(default_factory=dict)


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Variables]:
    """Returns the static part of a model and its variables."""
    graph, params, statistics = nnx.split(model, nnx.Param, ...)
    return graph, Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(statistics))


def merge_model(graph: nnx.GraphDef, variables: Variables) -> nnx.Module:
    """Returns the model that `split_model` took apart."""
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
    frozen: Callable[[Params], Any] | None = None  # for every parameter, whether it stays as it is
    spike_factor: float = 0.0  # a loss above this multiple of its running mean is a spike and not applied; 0: none is
    log_statistics: bool = False  # whether the norms of every parameter and of its gradient are among the metrics


Init = Callable[[jax.Array], Variables]  # from a PRNG key to freshly initialised variables


def model_graph(task: Task, precision: str, mesh: Mesh) -> tuple[nnx.GraphDef, Init]:
    """Returns the static part of a task's model for a mesh, and the function that initialises its variables."""
    platform = mesh.devices.flat[0].platform
    graphs = []

    # Traced once for the graph and every caller that needs shapes or values: tracing takes most of a start.
    @jax.jit
    def init(key: jax.Array) -> Variables:
        graph, variables = split_model(task.build_model(get_precision(precision), nnx.Rngs(key), platform))
        graphs.append(graph)
        return variables

    jax.eval_shape(init, jax.random.key(0))
    return graphs[0], init


def init_state(spec: TrainSpec, init: Init) -> TrainState:
    """Returns a fresh state, created on the devices with its sharding."""
    fresh = partial(_fresh_state, spec, init)
    return jax.jit(fresh, out_shardings=shardings(jax.eval_shape(fresh), spec.mesh))()


def abstract_state(spec: TrainSpec, init: Init) -> TrainState:
    """Returns shapes, dtypes and shardings of a state; computes nothing."""
    return _sharded(jax.eval_shape(partial(_fresh_state, spec, init)), spec.mesh)


def abstract_variables(init: Init, mesh: Mesh) -> Variables:
    """Returns shapes, dtypes and shardings of a model's variables; computes nothing."""
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
