"""Protocols of a task: its interface to the trainer and to the commands, without behaviour.

The trainer knows arrays by name, losses and figures. The task defines the examples, the model and its loss, and how
results are measured and shown.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import jax
    from flax import nnx
    from ml_collections import FrozenConfigDict

    from focalnet_jax.convert.load import Loaded
    from focalnet_jax.data.balance import Balance
    from focalnet_jax.data.sources import Source
    from focalnet_jax.model.precision import Precision
    from focalnet_jax.model.summary import Summary

MAIN = "eval"  # the prefix of the evaluation that ranks checkpoints
Batch = dict[str, np.ndarray]
Metrics = dict[str, "jax.Array"]


class Host(Protocol):
    """Turns the examples of a source into arrays of fixed shapes, without a leading axis.

    It is pickled into reader processes: NumPy only, and its module imports no JAX.
    """

    def train_example(self, example: Any, rng: np.random.Generator) -> Batch:
        """Returns an augmented example; raises `UnreadableImageError` if its image cannot be decoded."""

    def eval_example(self, example: Any) -> Batch:
        """Returns an example for an evaluation; raises `UnreadableImageError` if its image cannot be decoded."""


class Evaluation(Protocol):
    """Measures a model on every example of a source exactly once.

    The devices measure batches and the host combines them, as figures such as AP and PQ are not sums over examples.
    """

    source: Source

    def measure(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> Any:
        """Returns arrays for `add`; traced. Where `mask` `[B]` of the batch is 0, an example is padding."""

    def reset(self) -> None:
        """Forgets all that was added."""

    def add(self, measured: Any, batch: Batch) -> None:
        """Adds the measured arrays of a batch, and this host's part of that batch."""

    def result(self) -> dict[str, float | int]:
        """Returns the figures, among them `loss` and the number of `examples`."""

    def details(self) -> dict[str, float | int]:
        """Returns figures about the evaluation itself, which no weights change."""

    def describe(self, result: Mapping[str, float]) -> str:
        """Returns the figures as part of a line."""


class Prediction(Protocol):
    """A model's prediction for one image."""

    def line(self) -> str:
        """Returns the prediction as one line of text."""

    def json(self) -> dict[str, Any]:
        """Returns the prediction as a JSON object."""

    def draw(self, image: np.ndarray) -> np.ndarray:
        """Returns the image `[H, W, 3]` uint8 with the prediction drawn into or beside it."""


class Predictor(Protocol):
    """A model that predicts for images.

    Attributes:
      assumed: the parts of the preprocessing that the weights do not state, in words; empty for none.
    """

    assumed: str

    def predictions(self, images: Sequence[np.ndarray]) -> Sequence[Prediction]:
        """Returns the prediction for each image `[H, W, 3]` uint8."""


class Task(Protocol):
    """A task on a config's data: values, no state.

    Attributes:
      name: as in `config.task`.
      best_metric: the figure of the evaluation "eval" that ranks checkpoints, the higher the better.
      backbone: prefix of FocalNet's parameters, such as "" or "backbone/".
      splits_batches: whether the mean loss over micro-batches of equal size is the loss of the batch.
      host: makes arrays of examples.
      source: the training examples; None where a model is only evaluated or compiled.
      repeats: the number of times each example stands in a batch, augmented anew.
      balance: an order in which some examples come more often, or None.
    """

    name: str
    best_metric: str
    backbone: str
    splits_batches: bool
    host: Host
    source: Source | None
    repeats: int
    balance: Balance | None

    def start_fresh(self) -> Task:
        """Returns the task with the data of a head that starts from fresh parameters."""

    def start_from(self, loaded: Loaded, path: str) -> Task:
        """Returns the task with its data matched to the head of the weights that a run starts from."""

    def continue_run(self, metadata: Mapping[str, Any], run: str) -> Task:
        """Returns the task with its data matched to the head of a run, by the metadata of its checkpoint."""

    def evaluate(self, loaded: Loaded, path: str, named: Collection[str]) -> Task:
        """Returns the task for evaluating the weights at `path`; `named` config keys override their preprocessing."""

    def metadata(self) -> dict[str, Any]:
        """Returns metadata that a checkpoint stores for `continue_run`."""

    def banner(self) -> dict[str, str]:
        """Returns texts by row of a run's banner: "model" and "data" extend these rows, others are own rows."""

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of a training batch."""

    def build_model(self, precision: Precision, rngs: nnx.Rngs, platform: str) -> nnx.Module:
        """Returns a model with fresh parameters."""

    def summarize(self, model: nnx.Module | None = None) -> Summary:
        """Returns the numbers of parameters and of multiply-accumulates per example; builds no model if given one."""

    def facts(self) -> dict[str, Any]:
        """Returns facts about the outputs by name, for reports."""

    def prepare(self, batch: Mapping[str, jax.Array], key: jax.Array) -> Any:
        """Returns the inputs of `loss`, augmented on the device over the global batch; leaves `[B, ...]`."""

    def loss(self, model: nnx.Module, batch: Any, keys: jax.Array) -> tuple[jax.Array, Metrics]:
        """Returns the mean loss over the examples of a (micro-)batch and its named parts; `keys` `[B]` draw dropout."""

    def inputs(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the backbone's normalized images `[B, H, W, 3]` float32 of a batch of an evaluation."""

    def evaluations(self) -> dict[str, Evaluation]:
        """Returns the evaluations of a run by prefix; "eval" ranks checkpoints."""

    def show(self, batch: Any, place: int) -> tuple[np.ndarray, list[str]]:
        """Returns an image `[H, W, 3]` uint8 of a prepared batch with its targets drawn into it, and captions."""


class Kind(Protocol):
    """The contents of `tasks/NAME/kind.py`: from a config to a task."""

    def open_examples(self, config: FrozenConfigDict) -> Source:
        """Returns the examples to train on."""

    def choose(self, config: FrozenConfigDict, start: Any | None, source: Source | None) -> dict[str, Any]:
        """Returns values for the keys that the config leaves open and that this task can choose.

        Args:
          config: of a run, or of an evaluation.
          start: the model of the weights that a run starts from or that are evaluated, if it was read.
          source: the training examples; None where there are none.
        """

    def load_predictor(self, path: str | Path, name: str | None = None, **options: Any) -> Predictor:
        """Returns the predictor of the weights at `path`."""

    def make_task(self, config: FrozenConfigDict, source: Source | None = None, *, evaluated: bool = True) -> Task:
        """Returns the task of a resolved config.

        Args:
          config: resolved.
          source: the training examples; None where a model is evaluated or compiled.
          evaluated: whether to open the examples to evaluate on; without them, evaluations can only be compiled.
        """
