"""The `Task` of object detection: detectors with the losses and the evaluation of mmdetection."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import FrozenConfigDict

from focalnet_jax.config import model_config, replaced
from focalnet_jax.convert.detectors import build_detector, head_from_dict
from focalnet_jax.convert.load import Loaded
from focalnet_jax.convert.load_detector import load_detector
from focalnet_jax.data.class_lists import short_names
from focalnet_jax.data.normalization import normalize
from focalnet_jax.data.palette import class_colours
from focalnet_jax.data.preprocessing import Normalization, from_config
from focalnet_jax.data.source import check_class_count
from focalnet_jax.model.precision import Precision, get_precision
from focalnet_jax.model.summary import Summary
from focalnet_jax.settings import MAIN
from focalnet_jax.settings import detection as settings
from focalnet_jax.tasks.dense import check_same_classes, normalization_keys, note_normalization
from focalnet_jax.tasks.detection.classes import match_source
from focalnet_jax.tasks.detection.evaluated import AveragePrecision, padded_with_zeros
from focalnet_jax.tasks.detection.figures import objects_of, training_figure
from focalnet_jax.tasks.detection.host import DetectionHost, make_host, mask_side_of
from focalnet_jax.tasks.detection.methods import method_of
from focalnet_jax.tasks.detection.options import canvases_of, options_of
from focalnet_jax.tasks.detection.sources import DetectionSource, open_detection_source
from focalnet_jax.tasks.task import Metrics


@dataclass(frozen=True)
class Detection:
    """`Task` of object detection on the data of a config.

    Attributes:
      config: resolved config.
      host: transforms of images and boxes.
      source: training examples, or None if a model is only evaluated or compiled.
      evaluated: evaluations by the prefix of their metrics.
    """

    config: FrozenConfigDict
    host: DetectionHost
    source: DetectionSource | None
    evaluated: Mapping[str, AveragePrecision]

    name = "detection"
    best_metric = settings.BEST_METRIC
    backbone = "backbone/"
    splits_batches = True
    repeats = 1
    balance = None

    @classmethod
    def of(
        cls, config: FrozenConfigDict, source: DetectionSource | None = None, *, evaluated: bool = True
    ) -> Detection:
        """Returns the task of a resolved config. The arguments are described in `Kind.make_task`.

        Raises:
          UserError: evaluation examples cannot be opened, the data has more classes than the model, or the evaluation
            examples have other classes than the training examples.
        """
        masks = config.head.name in settings.MASKS
        opened = {MAIN: open_detection_source(config.data, config.data.eval_split, masks=masks) if evaluated else None}
        for each in (source, *opened.values()):
            if each is not None:
                check_class_count(each, config.model.num_classes)
        return cls._with(config, source, opened)

    @property
    def groups(self) -> list[np.ndarray] | None:
        """Indices of the training images of each canvas, see `Canvases.groups`; None without training examples."""
        return None if self.source is None else canvases_of(self.config).groups(self.source.sizes)

    def load(self, path: str, like: Any, *, which: str | None = None, evaluated: bool = False) -> Loaded:
        """Returns the weights at `path` as variables of the detector, see `load_detector`."""
        chosen = {"evaluated": True} if evaluated else {"init": self.config.init_head, "seed": self.config.seed}
        head = head_from_dict(self.config.head.to_dict())
        return load_detector(path, model_config(self.config), head, like, which=which, **chosen)

    def start_fresh(self) -> Detection:
        """Returns the unchanged task: the outputs are the classes of the data, in the order of the data."""
        return self

    def start_from(self, loaded: Loaded, path: str) -> Detection:
        """Returns the task with its labels matched to the outputs of the weights, unless the last layers are new.

        Prints a note if the weights were trained with another normalization of images.

        Raises:
          UserError: the data has classes that the weights lack.
        """
        note_normalization(self.config, loaded, path)
        if loaded.info.classes == ():  # the last layers are new
            return self
        return self._matched(loaded.info.classes, path, "give --config.init_head=drop to train new last layers")

    def continue_run(self, metadata: Mapping[str, Any], run: str) -> Detection:
        """Returns the task with its labels matched to the outputs of a run.

        Raises:
          UserError: the data has classes that the run lacks.
        """
        return self._matched(metadata.get("classes"), run, "give the data of that run")

    def evaluate(self, loaded: Loaded, path: str, named: Collection[str]) -> Detection:
        """Returns the task for evaluating the weights at `path`.

        Labels are matched to the outputs of the weights. Images are normalized as stored with the weights, unless
        `named` contains `data.mean` or `data.std`.

        Raises:
          UserError: the data has classes that the weights lack.
        """
        task = self._matched(loaded.info.classes, path, "evaluate data with its classes")
        data = normalization_keys(self.config, loaded, named)
        opened = {name: each.source for name, each in task.evaluated.items()}
        return self._with(replaced(task.config, data), task.source, opened)

    @property
    def _normalization(self) -> Normalization:
        return from_config(self.config.data).normalization

    def _matched(self, known: Sequence[str] | None, model: str, advice: str) -> Detection:
        """Returns the task with its labels matched to the outputs that `known` names, see `match_source`."""
        data, outputs = self.config.data, self.config.model.num_classes

        def matched(source: DetectionSource | None, split: str) -> DetectionSource | None:
            if source is None:
                return None
            return match_source(source, known, outputs, data=f"split {split}", model=model, advice=advice)

        source = matched(self.source, data.train_split)
        opened = {name: matched(each.source, data.eval_split) for name, each in self.evaluated.items()}
        return self._with(self.config, source, opened)

    @classmethod
    def _with(
        cls, config: FrozenConfigDict, source: DetectionSource | None, opened: Mapping[str, DetectionSource | None]
    ) -> Detection:
        """Returns the task with these training and evaluation examples.

        Raises:
          UserError: the evaluation examples have other classes than the training examples.
        """
        check_same_classes(config, source, opened.values())
        options, method = options_of(config), method_of(config)
        measured = {name: AveragePrecision(each, method, options) for name, each in opened.items()}
        return cls(config, make_host(config), source, measured)

    def metadata(self) -> dict[str, Any]:
        """Returns `classes`, the names of the outputs."""
        return {"classes": list(self.source.class_names)}

    def banner(self) -> dict[str, str]:
        """Returns the name of the detector and its number of outputs, and the number of classes of the data."""
        outputs = self.config.model.num_classes
        return {"model": f"{self.config.head.name}, {outputs} outputs"} | (
            {} if self.source is None else {"data": f"{len(self.source.class_names)} classes"}
        )

    def batch_spec(self, batch_size: int, *, evaluated: bool = False) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes and dtypes of a batch of landscape images.

        The arrays are those of `Augmentation.apply`, or of `DetectionHost.eval_example` if `evaluated` is True.
        """
        canvas, slots, side = canvases_of(self.config), self.config.data.max_boxes, mask_side_of(self.config)

        def array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

        spec = {
            "image": array(jnp.uint8, canvas.short, canvas.long, 3),
            "size": array(jnp.int32, 2),
            "boxes": array(jnp.float32, slots, 4),
            "labels": array(jnp.int32, slots),
            "excess": array(jnp.int32),
        }
        if side:
            spec |= {"masks": array(jnp.uint8, slots, side, side // 8), "frames": array(jnp.float32, slots, 4)}
        return spec | ({"scale": array(jnp.float32, 4), "index": array(jnp.int32)} if evaluated else {})

    def build_model(self, precision: Precision, rngs: nnx.Rngs, platform: str) -> nnx.Module:
        """Returns the detector with fresh parameters."""
        head = head_from_dict(self.config.head.to_dict())
        return build_detector(model_config(self.config), head, precision=precision, rngs=rngs, platform=platform)

    def summarize(self, model: nnx.Module | None = None) -> Summary:
        """Returns the numbers of parameters and of multiply-accumulates per landscape canvas."""
        if model is None:
            model = nnx.eval_shape(lambda: self.build_model(get_precision("float32"), nnx.Rngs(0), "cpu"))
        canvas, head = canvases_of(self.config), head_from_dict(self.config.head.to_dict())
        return head.architecture.summarize(model, (canvas.short, canvas.long))

    def facts(self) -> dict[str, int]:
        """Returns the number of outputs, `num_classes`."""
        return {"num_classes": self.config.model.num_classes}

    def prepare(self, batch: Mapping[str, jax.Array], key: jax.Array) -> dict[str, Any]:
        """Returns the batch with normalized images `[B, H, W, 3]` float32, whose padding is 0, and with targets."""
        images = padded_with_zeros(self.inputs(batch), batch["size"])
        kept = ("size", "boxes", "labels", "excess", "masks", "frames")
        batch = {"image": images, **{name: batch[name] for name in kept if name in batch}}
        return batch | method_of(self.config).prepare(batch, key)

    def loss(self, model: nnx.Module, batch: Mapping[str, Any], keys: jax.Array) -> tuple[jax.Array, Metrics]:
        """Returns the mean loss of a batch, and its parts.

        The part `excess_boxes` is not a loss: it is the mean number of boxes per image that did not fit into the slots.
        """
        loss, parts = method_of(self.config).loss(model, batch, keys)
        return loss, parts | {"excess_boxes": jnp.mean(batch["excess"].astype(jnp.float32))}

    def counts(self, model: nnx.Module, batch: Mapping[str, Any], keys: jax.Array) -> jax.Array | None:
        """Returns the counts of the detector's `Method`."""
        return method_of(self.config).counts(model, batch, keys)

    def inputs(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the normalized images `[B, H, W, 3]` float32 of a batch."""
        return normalize(batch["image"], self._normalization)

    def evaluations(self) -> dict[str, AveragePrecision]:
        """Returns the evaluations by the prefix of their metrics. The evaluation "eval" uses `data.eval_split`."""
        return dict(self.evaluated)

    def show(self, batch: Mapping[str, Any], index: int) -> tuple[np.ndarray, list[str]]:
        """Returns the image at `index` of a prepared batch with its objects and their names drawn, and one caption.

        The caption has the number of objects, and the height and width of the image without padding.
        """
        how = self._normalization
        image = np.asarray(batch["image"][index])
        pixels = np.round(255 * np.clip(image * how.std + how.mean, 0, 1)).astype(np.uint8)
        objects = objects_of(batch, index)
        names = tuple(short_names(self.source.class_names))
        height, width = np.asarray(batch["size"][index])
        caption = f"{len(objects.labels)} object{'s' * (len(objects.labels) != 1)}, {height}x{width}"
        return training_figure(pixels, objects, names, class_colours(len(names))), [caption]
