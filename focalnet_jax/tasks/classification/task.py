"""The `Task` of classification. The loss is the cross-entropy of mixed and smoothed targets."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import FrozenConfigDict

from focalnet_jax.config import model_config
from focalnet_jax.convert.load import Loaded, load_into
from focalnet_jax.data.balance import Balance, labels_of
from focalnet_jax.data.labels import HOW_TO_SAY
from focalnet_jax.data.normalization import normalize
from focalnet_jax.data.preprocessing import sides
from focalnet_jax.data.source import Source
from focalnet_jax.model import FocalNet, summarize
from focalnet_jax.model.precision import Precision
from focalnet_jax.model.summary import Summary
from focalnet_jax.settings import MAIN
from focalnet_jax.settings import classification as settings
from focalnet_jax.tasks.classification.accuracy import Accuracy
from focalnet_jax.tasks.classification.captions import captions
from focalnet_jax.tasks.classification.classes import (
    ClassifierInfo,
    label_evaluation,
    label_for,
    label_training,
    loaded_classifier,
    stored_classifier,
)
from focalnet_jax.tasks.classification.evaluated import open_evaluations
from focalnet_jax.tasks.classification.host import ClassificationHost, make_host
from focalnet_jax.tasks.classification.mixing import Mixing, make_mixing, prepare_batch
from focalnet_jax.tasks.classification.preprocessing import note_difference, weights_preprocessing
from focalnet_jax.tasks.classification.weights import class_weights, unweigh, weigh
from focalnet_jax.tasks.task import Metrics


@dataclass(frozen=True)
class Classification:
    """`Task` of classification on the data of a config.

    Attributes:
      config: resolved config.
      host: image transforms.
      mixing: augmentation of training batches.
      source: training examples, whose labels are outputs, or None if a model is only evaluated or compiled.
      evaluated: evaluations, with their examples, by the prefix of their metrics.
      weights: weights of the classes in the loss, see `class_weights`, or None if all classes have the same weight.
    """

    config: FrozenConfigDict
    host: ClassificationHost
    mixing: Mixing
    source: Source | None
    evaluated: Mapping[str, Accuracy]
    weights: tuple[float, ...] | None

    name = "classification"
    best_metric = settings.BEST_METRIC
    backbone = ""
    splits_batches = True
    groups = None

    @classmethod
    def of(cls, config: FrozenConfigDict, source: Source | None = None, *, evaluated: bool = True) -> Classification:
        """Returns the task of a resolved config, before labels are matched to outputs.

        The arguments are described in `Kind.make_task`.

        Raises:
          UserError: values of the config contradict each other, or evaluation examples cannot be opened.
        """
        host, mixing = make_host(config), make_mixing(config)
        opened = open_evaluations(config) if evaluated else {MAIN: None}
        competing = config.eval_classes
        if not isinstance(competing, int | None):  # labels are not matched yet; the subset does not change shapes
            competing = np.ones(config.model.num_classes, bool)
        accuracies = {name: Accuracy(examples, competing, mixing.normalization) for name, examples in opened.items()}
        return cls(config, host, mixing, source, accuracies, class_weights(config, None))

    @property
    def repeats(self) -> int:
        """Number of copies of each example in a batch, each with different augmentation."""
        return self.config.augment.repeats

    @cached_property
    def balance(self) -> Balance | None:
        """Order in which rare classes occur more often, or None if `data.class_balance` is 0."""
        power = self.config.data.class_balance
        return Balance(labels_of(self.source), power) if power else None

    def load(self, path: str, like: Any, *, which: str | None = None, evaluated: bool = False) -> Loaded:
        """Returns the weights at `path` as variables of the model, see `load_into`."""
        chosen = {"surgery": False} if evaluated else {"head": self.config.init_head, "seed": self.config.seed}
        model = model_config(self.config)
        return load_into(path, model, like.params, statistics=like.statistics, which=which, **chosen)

    def start_fresh(self) -> Classification:
        """Returns the task with the labels of a fresh classifier, from `data.classes` or from the data."""
        return self._labelled(None)

    def start_from(self, loaded: Loaded, path: str) -> Classification:
        """Returns the task with the labels of the weights' classifier.

        Prints a note if the preprocessing stored with the weights differs from the config's preprocessing.

        Raises:
          UserError: the data has classes that the classifier lacks, or the classes of the classifier are unknown.
        """
        note_difference(self.config, loaded.info, path)
        if self.config.init_head == "drop":
            return self._labelled(None)
        hint = f"{HOW_TO_SAY}; --config.init_head=drop starts a fresh classifier"
        return self._labelled(loaded_classifier(self.config, loaded, path, hint))

    def continue_run(self, metadata: Mapping[str, Any], run: str) -> Classification:
        """Returns the task with the labels of a run's classifier.

        Raises:
          UserError: `data.classes` has different classes, the data has classes that the classifier lacks, or neither
            the metadata nor `data.classes` names the classes.
        """
        return self._labelled(stored_classifier(self.config, metadata.get("classes"), run))

    def evaluate(self, loaded: Loaded, path: str, named: Collection[str]) -> Classification:
        """Returns the task for evaluating the weights at `path`.

        Labels are matched to the outputs of the weights. Images get the preprocessing stored with the weights, except
        that the config keys in `named` override it.

        Raises:
          UserError: the data does not fit the classifier, or the weights' preprocessing is not supported.
        """
        classifier = loaded_classifier(self.config, loaded, path)
        labelled = {
            name: label_for(self.config, accuracy.source, classifier, name=name)
            for name, accuracy in self.evaluated.items()
        }
        how = weights_preprocessing(self.config, loaded.info, named)
        evaluated = {name: Accuracy(*each, how.normalization) for name, each in labelled.items()}
        return replace(self, host=make_host(self.config, how), evaluated=evaluated)

    def _labelled(self, classifier: ClassifierInfo | None) -> Classification:
        source = label_training(self.config, self.source, classifier)
        evaluated = {}
        opened = {name: accuracy for name, accuracy in self.evaluated.items() if accuracy.source is not None}
        for name, accuracy in opened.items():
            labelled, competing = label_evaluation(self.config, accuracy.source, source, name)
            evaluated[name] = Accuracy(labelled, competing, self.mixing.normalization)
        return replace(self, source=source, evaluated=evaluated, weights=class_weights(self.config, source))

    def metadata(self) -> dict[str, Any]:
        """Returns `classes`, the names of the outputs."""
        return {"classes": list(self.source.class_names)}

    def banner(self) -> dict[str, str]:
        """Returns the numbers of outputs and classes, and rows for held-out images, balance and class weights."""
        outputs = self.config.model.num_classes
        if self.source is None:
            return {"model": f"{outputs} outputs"}
        classes = len(self.source.class_names)
        unused = f", of which the data uses {classes}" if classes < outputs else ""
        rows = {"model": f"{outputs} outputs{unused}", "data": f"{classes} classes"}
        if description := getattr(self.evaluated[MAIN].source, "description", ""):
            rows["held out"] = description
        if (balance := self.balance) is not None:
            rows["balance"] = balance.describe()
        if self.weights is not None:
            rows["weights"] = f"of classes in the loss: {min(self.weights):.3g} to {max(self.weights):.3g}"
        return rows

    def batch_spec(self, batch_size: int, *, evaluated: bool = False) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of `image` `[B, H, W, 3]` and `label` `[B]`."""
        shape = (batch_size, *sides(self.config.data.image_size), 3)
        return {
            "image": jax.ShapeDtypeStruct(shape, jnp.uint8),
            "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        }

    def build_model(self, precision: Precision, rngs: nnx.Rngs, platform: str) -> FocalNet:
        """Returns a FocalNet with fresh parameters."""
        return FocalNet(model_config(self.config), precision=precision, rngs=rngs, platform=platform)

    def summarize(self, model: FocalNet | None = None) -> Summary:
        """Returns the numbers of parameters and of multiply-accumulates per image."""
        return summarize(model_config(self.config) if model is None else model, self.config.data.image_size)

    def facts(self) -> dict[str, int]:
        """Returns the number of outputs, `num_classes`."""
        return {"num_classes": self.config.model.num_classes}

    def prepare(self, batch: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        """Returns `image` `[B, H, W, 3]` float32, normalized and augmented, and `target` `[B, K]` float32."""
        outputs = self.config.model.num_classes
        images, targets = prepare_batch(batch["image"], batch["label"], outputs, self.mixing, key)
        if self.weights is not None:
            targets = weigh(targets, jnp.asarray(self.weights, jnp.float32), self.mixing.smoothing)
        return {"image": images, "target": targets}

    def loss(self, model: FocalNet, batch: Mapping[str, jax.Array], keys: jax.Array) -> tuple[jax.Array, Metrics]:
        """Returns the mean cross-entropy of a batch made by `prepare`."""
        logits = model(batch["image"], keys)
        return optax.softmax_cross_entropy(logits, batch["target"]).mean(), {}

    def counts(self, model: nnx.Module, batch: Any, keys: jax.Array) -> None:
        """Returns None: no loss is divided by numbers that depend on the model."""

    def inputs(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the normalized images `[B, H, W, 3]` float32 of an evaluation batch."""
        return normalize(batch["image"], self.mixing.normalization)

    def evaluations(self) -> dict[str, Accuracy]:
        """Returns the evaluations by the prefix of their metrics. The evaluation "eval" uses `data.eval_split`."""
        return dict(self.evaluated)

    def show(self, batch: Mapping[str, jax.Array], index: int) -> tuple[np.ndarray, list[str]]:
        """Returns the image `[H, W, 3]` uint8 at `index` of a prepared batch, and captions with its classes.

        The noise of random erasing is clipped to [0, 255].
        """
        colours = self.mixing.normalization
        pixels = np.asarray(batch["image"][index]) * colours.std + colours.mean
        targets, smoothing = np.asarray(batch["target"]), self.mixing.smoothing
        if self.weights is not None:
            targets = unweigh(targets, np.asarray(self.weights, np.float32), smoothing)
        texts = captions(targets[index], self.source.class_names, smoothing / targets.shape[-1])
        return np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8), texts
