"""The `Task` of semantic segmentation: UPerNet with the loss and the evaluation of mmsegmentation."""

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
from focalnet_jax.convert.load import Loaded
from focalnet_jax.convert.load_upernet import load_upernet
from focalnet_jax.convert.upernet import heads_from_dict
from focalnet_jax.data.class_lists import short_names
from focalnet_jax.data.masks import IGNORED, MaskCoding
from focalnet_jax.data.normalization import normalize
from focalnet_jax.data.palette import class_colours
from focalnet_jax.data.preprocessing import from_config, sides
from focalnet_jax.data.source import check_class_count
from focalnet_jax.model.heads.upernet import UPerNet, summarize_upernet
from focalnet_jax.model.precision import Precision, get_precision
from focalnet_jax.model.summary import Summary
from focalnet_jax.settings import MAIN
from focalnet_jax.settings import segmentation as settings
from focalnet_jax.tasks.dense import check_same_classes, normalization_keys, note_normalization
from focalnet_jax.tasks.segmentation.classes import match_pairs
from focalnet_jax.tasks.segmentation.figures import training_figure
from focalnet_jax.tasks.segmentation.host import SegmentationHost, make_host
from focalnet_jax.tasks.segmentation.losses import PixelLoss, hits
from focalnet_jax.tasks.segmentation.overlap import Overlap
from focalnet_jax.tasks.segmentation.shapes import inference_of
from focalnet_jax.tasks.segmentation.sources import PairSource, open_segmentation_source
from focalnet_jax.tasks.task import Metrics


@dataclass(frozen=True)
class Segmentation:
    """`Task` of semantic segmentation on the data of a config.

    Attributes:
      config: resolved config.
      host: transforms of images and masks.
      source: training examples, or None if a model is only evaluated or compiled.
      evaluated: evaluations by the prefix of their metrics.
    """

    config: FrozenConfigDict
    host: SegmentationHost
    source: PairSource | None
    evaluated: Mapping[str, Overlap]

    name = "segmentation"
    best_metric = settings.BEST_METRIC
    backbone = "backbone/"
    splits_batches = True
    repeats = 1
    balance = None
    groups = None

    @classmethod
    def of(cls, config: FrozenConfigDict, source: PairSource | None = None, *, evaluated: bool = True) -> Segmentation:
        """Returns the task of a resolved config. The arguments are described in `Kind.make_task`.

        Raises:
          UserError: evaluation examples cannot be opened, the data has more classes than the model, the evaluation
            examples have other classes than the training examples, or the numbers of `head.class_weights` and of
            classes differ.
        """
        settings.check_loss(config.head, config.model.num_classes)
        opened = {MAIN: None}
        if evaluated:
            opened = {MAIN: open_segmentation_source(config.data, config.data.eval_split)}
        for each in (source, *opened.values()):
            if each is not None:
                check_class_count(each, config.model.num_classes)
        return cls._with(config, source, opened)

    def load(self, path: str, like: Any, *, which: str | None = None, evaluated: bool = False) -> Loaded:
        """Returns the weights at `path` as variables of UPerNet, see `load_upernet`."""
        chosen = {"evaluated": True} if evaluated else {"head": self.config.init_head, "seed": self.config.seed}
        heads = heads_from_dict(self.config.head.to_dict())
        return load_upernet(path, model_config(self.config), heads, like, which=which, **chosen)

    def start_fresh(self) -> Segmentation:
        """Returns the unchanged task: the outputs are the classes of the data, in the order of the data."""
        return self

    def start_from(self, loaded: Loaded, path: str) -> Segmentation:
        """Returns the task with its masks matched to the outputs of the weights, unless the last layers are new.

        Prints a note if the weights were trained with another normalization of images.

        Raises:
          UserError: the data has classes that the weights lack.
        """
        note_normalization(self.config, loaded, path)
        if loaded.info.classes == ():  # the last layers are new
            return self
        return self._matched(loaded.info.classes, path, "give --config.init_head=drop to train new last layers")

    def continue_run(self, metadata: Mapping[str, Any], run: str) -> Segmentation:
        """Returns the task with its masks matched to the outputs of a run.

        Raises:
          UserError: the data has classes that the run lacks.
        """
        return self._matched(metadata.get("classes"), run, "use the data and data.classes of that run")

    def evaluate(self, loaded: Loaded, path: str, named: Collection[str]) -> Segmentation:
        """Returns the task for evaluating the weights at `path`.

        Masks are matched to the outputs of the weights. Images are normalized as stored with the weights, unless
        `named` contains `data.mean` or `data.std`.

        Raises:
          UserError: the data has classes that the weights lack.
        """
        advice = "evaluate data with the classes of the weights, or rename classes of the data with data.classes"
        task = self._matched(loaded.info.classes, path, advice)
        data = normalization_keys(self.config, loaded, named)
        opened = {name: each.source for name, each in task.evaluated.items()}
        return self._with(replaced(task.config, data), task.source, opened)

    def _matched(self, known: Sequence[str] | None, model: str, advice: str) -> Segmentation:
        """Returns the task with its masks matched to the outputs that `known` names, see `match_pairs`."""
        data, outputs = self.config.data, self.config.model.num_classes

        def matched(source: PairSource | None, split: str) -> PairSource | None:
            if source is None:
                return None
            return match_pairs(source, known, outputs, data=f"split {split}", model=model, advice=advice)

        source = matched(self.source, data.train_split)
        opened = {name: matched(each.source, data.eval_split) for name, each in self.evaluated.items()}
        return self._with(self.config, source, opened)

    @classmethod
    def _with(
        cls, config: FrozenConfigDict, source: PairSource | None, opened: Mapping[str, PairSource | None]
    ) -> Segmentation:
        """Returns the task with these training and evaluation examples.

        Raises:
          UserError: the evaluation examples have other classes than the training examples.
        """
        known = source or opened[MAIN]
        check_same_classes(config, source, opened.values())
        coding = known.coding if known is not None else MaskCoding(config.model.num_classes)
        options = inference_of(config)
        measured = {name: Overlap(each, config.model.num_classes, options) for name, each in opened.items()}
        return cls(config, make_host(config, coding), source, measured)

    def metadata(self) -> dict[str, Any]:
        """Returns `classes`, the names of the outputs, and `palette`, their colours, if the data has colours."""
        palette = self.source.palette
        colours = {} if palette is None else {"palette": palette.tolist()}
        return {"classes": list(self.source.class_names), **colours}

    def banner(self) -> dict[str, str]:
        """Returns the number of outputs of the model, and the number of classes of the data."""
        outputs = self.config.model.num_classes
        return {"model": f"{outputs} outputs"} | (
            {} if self.source is None else {"data": f"{len(self.source.class_names)} classes"}
        )

    def batch_spec(self, batch_size: int, *, evaluated: bool = False) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes of `image` `[B, H, W, 3]`, `mask` `[B, H, W]` and `size` `[B, 2]`.

        A batch of an evaluation has `classes` instead of `mask`, and an image for each scale. The returned shapes are
        those for original images of `data.image_size`; other images have other shapes.
        """
        height, width = sides(self.config.data.image_size)
        if evaluated:
            options = inference_of(self.config)
            images = dict(zip(options.names, options.sizes(height, width), strict=True))
            return {
                **{name: jax.ShapeDtypeStruct((batch_size, *size, 3), jnp.uint8) for name, size in images.items()},
                "classes": jax.ShapeDtypeStruct((batch_size, *options.canvas(height, width)), jnp.uint8),
                "size": jax.ShapeDtypeStruct((batch_size, 2), jnp.int32),
            }
        return {
            "image": jax.ShapeDtypeStruct((batch_size, height, width, 3), jnp.uint8),
            "mask": jax.ShapeDtypeStruct((batch_size, height, width), jnp.uint8),
            "size": jax.ShapeDtypeStruct((batch_size, 2), jnp.int32),
        }

    def build_model(self, precision: Precision, rngs: nnx.Rngs, platform: str) -> UPerNet:
        """Returns UPerNet with fresh parameters."""
        model, head = model_config(self.config), self.config.head
        return UPerNet(
            model,
            model.num_classes,
            precision=precision,
            rngs=rngs,
            platform=platform,
            channels=head.channels,
            pool_scales=head.pool_scales,
            dropout=head.dropout,
            auxiliary_channels=head.auxiliary_channels,
            auxiliary=head.auxiliary_weight > 0,
        )

    def summarize(self, model: UPerNet | None = None) -> Summary:
        """Returns the numbers of parameters and of multiply-accumulates per crop."""
        if model is None:
            model = nnx.eval_shape(lambda: self.build_model(get_precision("float32"), nnx.Rngs(0), "cpu"))
        return summarize_upernet(model, self.config.data.image_size)

    def facts(self) -> dict[str, int]:
        """Returns the number of outputs, `num_classes`."""
        return {"num_classes": self.config.model.num_classes}

    @property
    def pixel_loss(self) -> PixelLoss:
        """The loss of the decode head and of the auxiliary head."""
        head = self.config.head
        return PixelLoss(head.average, head.class_weights, head.ohem_kept, head.ohem_threshold)

    def prepare(self, batch: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        """Returns normalized `image` `[B, H, W, 3]` float32, whose padding is 0; `mask`; and `weight` `[B]`.

        `loss` multiplies the sum over the pixels of each image by `weight`. The mean over images is then the sum over
        all pixels of the global batch, divided by the divisor that `head.average` selects.
        """
        images, masks = self.inputs(batch), batch["mask"]
        height, width = masks.shape[1:]
        rows, columns = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None]
        sizes = batch["size"]
        inside = (rows < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])
        images = jnp.where(inside[..., None], images, 0.0)
        weight = jnp.full(len(masks), len(masks) / self.pixel_loss.divisor(masks))
        return {"image": images, "mask": masks, "weight": weight}

    def loss(self, model: UPerNet, batch: Mapping[str, jax.Array], keys: jax.Array) -> tuple[jax.Array, Metrics]:
        """Returns the loss, and its parts by name, with the pixel accuracy of the decode head.

        The loss is the cross-entropy of the decode head plus `head.auxiliary_weight` times that of the auxiliary head.
        """
        logits, auxiliary = model(batch["image"], keys, train=True)
        mask = batch["mask"]

        def mean(logits: jax.Array) -> jax.Array:
            return jnp.mean(self.pixel_loss.sums(logits, mask) * batch["weight"])

        loss = decode = mean(logits)
        parts = {"decode_loss": decode, "pixel_accuracy": hits(logits, mask).mean()}
        if auxiliary is not None:
            parts["auxiliary_loss"] = mean(auxiliary)
            loss = decode + self.config.head.auxiliary_weight * parts["auxiliary_loss"]
        return loss, parts

    def counts(self, model: nnx.Module, batch: Any, keys: jax.Array) -> None:
        """Returns None: no loss is divided by numbers that depend on the model."""

    def inputs(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the normalized images `[B, H, W, 3]` float32 of a batch."""
        return normalize(batch["image"], from_config(self.config.data).normalization)

    def evaluations(self) -> dict[str, Overlap]:
        """Returns the evaluations by the prefix of their metrics. The evaluation "eval" uses `data.eval_split`."""
        return dict(self.evaluated)

    def show(self, batch: Mapping[str, jax.Array], index: int) -> tuple[np.ndarray, list[str]]:
        """Returns the image at `index` of a prepared batch next to the same image with its classes, above a legend.

        Padding is drawn in the mean colour, with stripes like all ignored pixels. The caption states the number of
        classes and the fraction of ignored pixels.
        """
        how = from_config(self.config.data).normalization
        image, mask = np.asarray(batch["image"][index]), np.asarray(batch["mask"][index])
        pixels = np.round(255 * np.clip(image * how.std + how.mean, 0, 1)).astype(np.uint8)
        names = self.source.class_names
        colours = class_colours(len(names), self.source.palette)
        figure = training_figure(pixels, mask, short_names(names), colours)
        known = mask != IGNORED
        count = len(np.unique(mask[known]))
        return figure, [f"{count} class{'es' * (count != 1)}, {1 - known.mean():.0%} ignored"]
