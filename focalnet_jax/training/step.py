"""The train state and the jitted functions that make it, advance it and measure it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from focalnet_jax.data.mixing import Mixing, normalize, prepare_batch
from focalnet_jax.data.preprocessing import IMAGENET, Normalization
from focalnet_jax.distributed.mesh import compiler_options, replicated
from focalnet_jax.distributed.sharding import shardings
from focalnet_jax.model import FocalNet, FocalNetConfig
from focalnet_jax.model.layers import example_keys
from focalnet_jax.model.precision import get_precision
from focalnet_jax.parameters import named_leaves
from focalnet_jax.training.health import Health, fresh_health, judge, where_good

Params = dict[str, Any]
Metrics = dict[str, jax.Array]
EXCHANGED = "told"  # what every process tells all others with a batch


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """What training changes: a plain pytree. `step` counts batches; `ema` averages `params`, if asked for."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    health: Health
    ema: Params | None = None

    @property
    def result(self) -> Params:
        """The weights that are evaluated and exported: the average where there is one."""
        return self.params if self.ema is None else self.ema

    def items(self) -> dict[str, Any]:
        """The parts a checkpoint stores: `params` and `ema`, of use to others too, and `training`."""
        averaged = {} if self.ema is None else {"ema": self.ema}
        training = {"step": self.step, "opt_state": self.opt_state, "health": self.health}
        return {"params": self.params, "training": training} | averaged

    @classmethod
    def from_items(cls, items: dict[str, Any]) -> TrainState:
        """The state that `items` came from."""
        return cls(params=items["params"], ema=items.get("ema"), **items["training"])


@dataclass(frozen=True)
class Task:
    """What training keeps: the model's graph, optimizer, schedule, augmentation and random seed, bound to a mesh."""

    graph: nnx.GraphDef
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    num_classes: int
    mixing: Mixing
    seed: int
    mesh: Mesh
    accumulate_steps: int = 1
    ema_decay: float = 0.0
    frozen: Callable[[Params], Any] | None = None  # of every parameter, whether it stays as it is
    spike_factor: float = 0.0  # times the usual loss is a leap, whose update is not made; 0: none is
    statistics: bool = False  # the norm of every parameter and its gradient among the metrics
    class_weights: tuple[float, ...] | None = None  # in the loss, see `weigh`


def model_graph(
    config: FocalNetConfig, precision: str, mesh: Mesh
) -> tuple[nnx.GraphDef, Callable[[jax.Array], Params]]:
    """The static part of a model for a mesh, and a function from a PRNG key to freshly initialised parameters."""
    platform = mesh.devices.flat[0].platform

    def build(key: jax.Array) -> FocalNet:
        return FocalNet(config, precision=get_precision(precision), rngs=nnx.Rngs(key), platform=platform)

    graphs = []

    # Traced once for the graph and all who ask for shapes or values: that takes longest of what a start does.
    @jax.jit
    def init_params(key: jax.Array) -> Params:
        graph, state = nnx.split(build(key))
        graphs.append(graph)
        return nnx.to_pure_dict(state)

    jax.eval_shape(init_params, jax.random.key(0))
    return graphs[0], init_params


def init_state(task: Task, init_params: Callable[[jax.Array], Params]) -> TrainState:
    """A fresh state, made on the devices in its sharding."""
    fresh = partial(_fresh_state, task, init_params)
    return jax.jit(fresh, out_shardings=shardings(jax.eval_shape(fresh), task.mesh))()


def abstract_state(task: Task, init_params: Callable[[jax.Array], Params]) -> TrainState:
    """Shapes, dtypes and shardings of a state, nothing computed."""
    return _placed(jax.eval_shape(partial(_fresh_state, task, init_params)), task.mesh)


def abstract_params(init_params: Callable[[jax.Array], Params], mesh: Mesh) -> Params:
    """Shapes, dtypes and shardings of parameters, nothing computed."""
    return _placed(jax.eval_shape(init_params, jax.random.key(0)), mesh)


def _fresh_state(task: Task, init_params: Callable[[jax.Array], Params]) -> TrainState:
    params = init_params(_keys(task.seed)[0])
    ema = jax.tree.map(jnp.copy, params) if task.ema_decay else None
    return TrainState(jnp.zeros((), jnp.int32), params, task.optimizer.init(params), fresh_health(), ema)


def _placed(shapes: Any, mesh: Mesh) -> Any:
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, shardings(shapes, mesh)
    )


def make_train_step(task: Task) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]]:
    """One update from a global batch: `image` `[B, H, W, 3]` uint8 and `label` `[B]`.

    Where the loss or a gradient is no number, or the loss leaps, parameters, what the optimizer keeps of them and their
    average stay as they are, see `health`; the step counts all the same, and so does the learning rate.

    The state given is donated. Metrics are scalars: of this update `train/loss`, `train/grad_norm` (before clipping),
    `train/update_norm`, `train/learning_rate`, and `train/param_norm` after it; `train/skipped` updates so far, and
    `train/skipped_in_a_row`; with `statistics` the norm of every parameter and its gradient, `params/NAME` and
    `gradients/NAME`; and `told` `[N]`, the sum over the processes of the integers each put into the batch's field
    `told`, see `put_exchanged`.
    """

    def loss_of(params: Params, images: jax.Array, targets: jax.Array, keys: jax.Array) -> jax.Array:
        if task.frozen:
            stays = task.frozen(params)
            params = jax.tree.map(lambda param, stay: jax.lax.stop_gradient(param) if stay else param, params, stays)
        logits = nnx.merge(task.graph, params)(images, keys)
        return optax.softmax_cross_entropy(logits, targets).mean()

    def loss_and_gradients(params: Params, *batch: jax.Array) -> tuple[jax.Array, Params]:
        if task.accumulate_steps == 1:
            return jax.value_and_grad(loss_of)(params, *batch)
        # Parts of equal size, so the mean of their means is the batch's.
        parts = [_micro_batches(array, task.accumulate_steps) for array in batch]

        def add(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, jax.value_and_grad(loss_of)(params, *part)), None

        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        total, _ = jax.lax.scan(add, zero, parts)
        return jax.tree.map(lambda value: value / task.accumulate_steps, total)

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, Metrics]:
        # A pure function of seed and step, so a resumed run draws what the uninterrupted one would have.
        key = jax.random.fold_in(_keys(task.seed)[1], state.step)
        mix_key = mixing_key(task.seed, state.step)
        images, targets = prepare_batch(batch["image"], batch["label"], task.num_classes, task.mixing, mix_key)
        if task.class_weights is not None:
            targets = weigh(targets, jnp.asarray(task.class_weights, jnp.float32), task.mixing.smoothing)
        keys = example_keys(key, len(images))  # so that a part of a batch draws what the whole one does
        loss, gradients = loss_and_gradients(state.params, images, targets, keys)
        # A device sums only the part of a gradient whose parameters it updates.
        gradients = jax.lax.with_sharding_constraint(gradients, shardings(gradients, task.mesh))
        with jax.named_scope("optimizer"):
            state, metrics = _update(task, state, loss, gradients)
        if EXCHANGED in batch:
            # After all else that travels, by way of a number that is never below 0: on CPUs two exchanges that do not
            # wait for each other may take each other's messages.
            never = (metrics["train/param_norm"] < 0).astype(jnp.int32)
            metrics[EXCHANGED] = (batch[EXCHANGED] + never).sum(axis=0)
        return state, metrics

    @partial(jax.jit, donate_argnums=0, compiler_options=compiler_options(task.mesh))
    def placed(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, Metrics]:
        with jax.sharding.use_abstract_mesh(task.mesh.abstract_mesh):
            state, metrics = step(state, batch)
        # What comes out lies as what went in, so that the next update finds it where this one did.
        return jax.lax.with_sharding_constraint((state, metrics), (shardings(state, task.mesh), whole(metrics)))

    def whole(metrics: Metrics) -> Any:
        return jax.tree.map(lambda _: replicated(task.mesh), metrics)

    return placed


def weigh(targets: jax.Array, weights: jax.Array, smoothing: float) -> jax.Array:
    """Targets `[B, K]` with which the mean cross-entropy over a batch is the mean weighted by class.

    The sum over examples and classes of weight x target x -log p, over the sum of the examples' weights, as
    `torch.nn.CrossEntropyLoss(weight, label_smoothing)` has it for class indices. The weight of a mixed example is the
    mean of its classes' weights, by their shares before smoothing. The sum is that of the global batch, so that devices
    and micro-batches change nothing.
    """
    total = jnp.sum(targets @ weights - smoothing * weights.mean()) / (1 - smoothing)
    return targets * weights * jnp.where(total > 0, len(targets) / jnp.where(total > 0, total, 1), 0)


def _update(task: Task, state: TrainState, loss: jax.Array, gradients: Params) -> tuple[TrainState, Metrics]:
    """All that goes over every parameter: the update, what keeps it from what is not finite, and norms."""
    grad_norm = optax.tree.norm(gradients)
    good, health = judge(state.health, loss, grad_norm, task.spike_factor)
    updates, opt_state = task.optimizer.update(gradients, state.opt_state, state.params)
    params, ema = optax.apply_updates(state.params, updates), state.ema
    if ema is not None:
        # Written so that what does not change stays as it is, to the bit.
        ema = jax.tree.map(lambda mean, new: mean + (1 - task.ema_decay) * (new - mean), ema, params)
    kept = (state.params, state.opt_state, state.ema)
    params, opt_state, ema = where_good(good, (params, opt_state, ema), kept)
    metrics = {
        "train/loss": loss,
        "train/grad_norm": grad_norm,
        "train/update_norm": optax.tree.norm(updates),
        "train/param_norm": optax.tree.norm(params),
        "train/learning_rate": jnp.asarray(task.schedule(state.step), jnp.float32),
        "train/skipped": health["skipped"],
        "train/skipped_in_a_row": health["in_a_row"],
    }
    if task.statistics:
        metrics |= _norms("params", params) | _norms("gradients", gradients)
    return TrainState(state.step + 1, params, opt_state, health, ema), metrics


def _norms(kind: str, tree: Params) -> Metrics:
    return {f"{kind}/{name}": jnp.linalg.norm(leaf.ravel()) for name, leaf in named_leaves(tree).items()}


def _micro_batches(batch: jax.Array, parts: int) -> jax.Array:
    """`[B, ...]` as `[parts, B / parts, ...]`; every part has examples of every device, so that none travel."""
    return batch.reshape(batch.shape[0] // parts, parts, *batch.shape[1:]).swapaxes(0, 1)


def make_eval_step(
    graph: nnx.GraphDef,
    mesh: Mesh,
    competing: int | np.ndarray | None = None,
    normalization: Normalization = IMAGENET,
) -> Callable[[Params, dict[str, jax.Array]], Metrics]:
    """Sums over the examples of a batch whose `mask` `[B]` is 1: `top1`, `top5`, `loss`, `examples`.

    Of an example with several labels `[B, M]`, filled up with -1, any of them is right, its loss is their mean, and
    without any it is not counted: ImageNet-ReaL (arXiv 2006.07159).

    With a number `competing` only the first outputs compete: ImageNet-1K's are the first 1000 of ImageNet-22K's. With a
    mask `[K]` bool all compete, and `top1_subset` and `top5_subset` are sums where only those of the mask do.
    """
    first, subset = (competing, None) if competing is None or isinstance(competing, int) else (None, competing)

    def step(params: Params, batch: dict[str, jax.Array]) -> Metrics:
        logits = nnx.merge(graph, params)(normalize(batch["image"], normalization))[:, :first]  # [B, K]
        labels = batch["label"].reshape(len(logits), -1)  # [B, M]
        known = labels >= 0

        def hits_of(logits: jax.Array) -> jax.Array:  # [B, 5], the best first
            best = jax.lax.top_k(logits, min(5, logits.shape[-1]))[1]
            return (best[:, :, None] == labels[:, None, :]).any(axis=-1)

        hits = hits_of(logits)
        losses = optax.softmax_cross_entropy_with_integer_labels(
            jnp.broadcast_to(logits[:, None], (*labels.shape, logits.shape[-1])), jnp.maximum(labels, 0)
        )
        losses = jnp.sum(losses * known, axis=-1) / jnp.maximum(jnp.sum(known, axis=-1), 1)
        counted = batch["mask"] * known.any(axis=-1)
        sums = {
            "top1": jnp.sum(hits[:, 0] * counted),
            "top5": jnp.sum(hits.any(axis=-1) * counted),
            "loss": jnp.sum(losses * counted),
            "examples": jnp.sum(counted),
        }
        if subset is not None:
            hits = hits_of(jnp.where(subset, logits, -jnp.inf))
            sums |= {"top1_subset": jnp.sum(hits[:, 0] * counted), "top5_subset": jnp.sum(hits.any(axis=-1) * counted)}
        return sums

    def placed(params: Params, batch: dict[str, jax.Array]) -> Metrics:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return step(params, batch)

    return jax.jit(placed, out_shardings=replicated(mesh), compiler_options=compiler_options(mesh))


def mixing_key(seed: int, step: jax.Array | int) -> jax.Array:
    """What erasing and mixing are drawn from in the update after `step` others."""
    return jax.random.fold_in(_keys(seed)[2], step)


def _keys(seed: int) -> jax.Array:
    """Independent keys: for the initial weights, for the steps and for mixing in them."""
    return jax.random.split(jax.random.key(seed), 3)
