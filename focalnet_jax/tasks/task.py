"""Protocols of a task, its evaluations and its `kind` module. The module `predictor` has the protocols of predictions.

The trainer knows only named arrays, losses and metrics. The task defines the examples, the model and its loss, and how
results are measured and shown.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from focalnet_jax.data.host import Batch, Host

if TYPE_CHECKING:
    import jax
    from flax import nnx
    from ml_collections import FrozenConfigDict

    from focalnet_jax.convert.load import Loaded
    from focalnet_jax.convert.start import Start
    from focalnet_jax.data.balance import Balance
    from focalnet_jax.data.order import Groups
    from focalnet_jax.data.source import Source
    from focalnet_jax.model.precision import Precision
    from focalnet_jax.model.summary import Summary
    from focalnet_jax.tasks.predictor import Predictor

Metrics = dict[str, "jax.Array"]


class Evaluation(Protocol):
    """Measures a model on every example of a source exactly once.

    The devices measure batches, and the host combines the results, because AP is not a sum over examples.
    """

    source: Source

    def measure(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> Any:
        """Returns the arrays that `add` receives. JAX traces this method.

        Examples whose `mask` `[B]` in the batch is 0 are padding.
        """

    def reset(self) -> None:
        """Discards all batches added so far."""

    def add(self, measured: Any, batch: Batch) -> None:
        """Adds the result of `measure` for a global batch. `batch` is this host's part of the batch."""

    def result(self) -> dict[str, float | int]:
        """Returns the metrics by name, and the number of examples as `examples`."""

    def details(self) -> dict[str, float | int]:
        """Returns facts about the evaluation that do not depend on the weights, such as a number of classes."""

    def table(self) -> list[tuple[str, ...]]:
        """Returns a table of detailed results, such as one row per class, after a row of titles; or an empty list."""

    def records(self) -> list[dict[str, Any]]:
        """Returns the predictions for all examples as JSON objects in the format of the task's usual tools.

        The list is empty if the task has no such format.
        """

    def describe(self, result: Mapping[str, float]) -> str:
        """Returns the metrics in words, as one line of text."""

    def predict(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> Any:
        """Returns the arrays that `draw` receives, with leaves `[B, ...]`. JAX traces this method."""

    def draw(self, predicted: Any, index: int) -> np.ndarray:
        """Returns an image `[H, W, 3]` uint8 of the prediction for one example next to its ground truth.

        `predicted` is the result of `predict`, and `index` the index of the example in its arrays.
        """


class Task(Protocol):
    """An immutable task on the data of a config.

    Attributes:
      name: name in `config.task`.
      best_metric: metric of the evaluation "eval" that ranks checkpoints; higher is better.
      backbone: prefix of the names of FocalNet's parameters, such as "" or "backbone/".
      splits_batches: whether the loss of a batch equals the mean of the losses of micro-batches of equal size, so that
        a batch may be split.
      host: `Host` that converts examples to arrays.
      source: the training examples, or None if a model is only evaluated or compiled.
      repeats: number of copies of each example in a batch, each with different augmentation.
      balance: order in which some examples occur more often than others, or None if all occur equally often.
      groups: groups of training examples whose arrays have equal shapes, or None if the arrays of all examples have
        equal shapes. All examples of a batch are from one group.
    """

    name: str
    best_metric: str
    backbone: str
    splits_batches: bool
    host: Host
    source: Source | None
    repeats: int
    balance: Balance | None
    groups: Groups | None

    def load(self, path: str, like: Any, *, which: str | None = None, evaluated: bool = False) -> Loaded:
        """Returns the weights at `path` as variables of the task's model.

        Args:
          path: path of the weights, in any format.
          like: the model's variables, `params` and `statistics`, as arrays or shapes. The result has the same
            shardings.
          which: selection among several weights in the file.
          evaluated: whether the weights are for an evaluation. Otherwise they start a run: `init_head` applies, and
            variables that the file lacks are initialised.
        """

    def start_fresh(self) -> Task:
        """Returns the task with its data matched to a head with fresh parameters, at the start of a run."""

    def start_from(self, loaded: Loaded, path: str) -> Task:
        """Returns the task with its data matched to the head of `loaded`, the initial weights of a run."""

    def continue_run(self, metadata: Mapping[str, Any], run: str) -> Task:
        """Returns the task with its data matched to the head of a run, using the metadata of the run's checkpoint."""

    def evaluate(self, loaded: Loaded, path: str, named: Collection[str]) -> Task:
        """Returns the task for evaluating the weights at `path`.

        Images get the preprocessing stored with the weights, except that the config keys in `named` override it.
        """

    def metadata(self) -> dict[str, Any]:
        """Returns the metadata that checkpoints store for `continue_run`."""

    def banner(self) -> dict[str, str]:
        """Returns texts for the banner at the start of a run, by the name of the row, or an empty dict.

        The texts of "model" and "data" are appended to existing rows. Other names add rows.
        """

    def batch_spec(self, batch_size: int, *, evaluated: bool = False) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of a training batch.

        If `evaluated` is True, they are those of a batch of the evaluation "eval", without its `mask`.
        """

    def build_model(self, precision: Precision, rngs: nnx.Rngs, platform: str) -> nnx.Module:
        """Returns a model with fresh parameters."""

    def summarize(self, model: nnx.Module | None = None) -> Summary:
        """Returns the numbers of parameters and of multiply-accumulates per example.

        If `model` is None, the model of the config is built first.
        """

    def facts(self) -> dict[str, Any]:
        """Returns facts about the outputs, by name, for reports."""

    def prepare(self, batch: Mapping[str, jax.Array], key: jax.Array) -> Any:
        """Returns the inputs of `loss` with leaves `[B, ...]` for a global batch, augmented on the devices."""

    def loss(self, model: nnx.Module, batch: Any, keys: jax.Array) -> tuple[jax.Array, Metrics]:
        """Returns the mean loss of a prepared batch or micro-batch, and parts of the loss by name.

        `keys` `[B]` are PRNG keys, one per example, for dropout and other random choices of the model.
        """

    def counts(self, model: nnx.Module, batch: Any, keys: jax.Array) -> jax.Array | None:
        """Returns the divisors of `loss` that depend on the model, as means over the examples of a batch.

        The result is None if there are no such divisors. Otherwise, if the trainer splits a batch into micro-batches,
        it first calls this method with the arguments of `loss`. The means over the whole batch are then the entry
        `counts` of the batches that `loss` receives.
        """

    def inputs(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the input of the backbone for an evaluation batch: normalized images `[B, H, W, 3]` float32."""

    def evaluations(self) -> dict[str, Evaluation]:
        """Returns the evaluations of a run by the prefix of their metrics. The evaluation "eval" ranks checkpoints."""

    def show(self, batch: Any, index: int) -> tuple[np.ndarray, list[str]]:
        """Returns the image at `index` of a prepared batch with its targets, `[H, W, 3]` uint8, and captions."""


class Kind(Protocol):
    """Interface of the modules `tasks/NAME/kind.py`, which make tasks from configs."""

    def open_examples(self, config: FrozenConfigDict) -> Source:
        """Returns the training examples of a config."""

    def choose(self, config: FrozenConfigDict, start: Any | None, source: Source | None) -> dict[str, Any]:
        """Returns values for the keys that the config leaves open and that this task can choose.

        Args:
          config: config of a run or of an evaluation.
          start: architecture, input size and classes stored with the initial or evaluated weights, or None without
            weights.
          source: training examples, or None without examples.
        """

    def evaluated_config(
        self, config: FrozenConfigDict, stored: Mapping[str, Any], named: Collection[str]
    ) -> FrozenConfigDict:
        """Returns the config for evaluating a checkpoint of a run.

        If the evaluation would otherwise include training examples, the keys that select evaluation examples get their
        values from the run. A task without such keys returns `config`.

        Args:
          config: config of the evaluation.
          stored: config of the run, read from JSON; it may lack keys.
          named: config keys set on the command line, which are kept.
        """

    def read_start(
        self,
        path: str,
        which: str | None,
        head: str,
        name: str | None,
        options: Mapping[str, bool],
        assumed: Mapping[str, bool] | None,
    ) -> Start:
        """Returns the architecture, input size and class names stored with weights, see `convert.start.read_start`."""

    def load_predictor(self, path: str | Path, name: str | None = None, **options: Any) -> Predictor:
        """Returns the predictor of the weights at `path`."""

    def make_task(self, config: FrozenConfigDict, source: Source | None = None, *, evaluated: bool = True) -> Task:
        """Returns the task of a resolved config.

        Args:
          config: resolved config.
          source: training examples, or None if a model is only evaluated or compiled.
          evaluated: whether to open the evaluation examples. If False, evaluations can only be compiled.
        """
