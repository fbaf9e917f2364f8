"""FocalNet: the backbone (embedding and stages of focal blocks), pooling and the classifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from focalnet_jax.distributed.activations import by_example
from focalnet_jax.errors import UserError
from focalnet_jax.model.blocks import BlockProbe, PatchEmbed, Stage
from focalnet_jax.model.layers import LayerNorm, keys_of_examples, linear
from focalnet_jax.model.precision import Precision, get_precision
from focalnet_jax.model.variants import FocalNetConfig, variant_config
from focalnet_jax.ops.compute import EXACT, choose_compute
from focalnet_jax.ops.dropout import dropout, split_keys


class Backbone(nnx.Module):
    """FocalNet without the classifier: maps images to one feature map per stage (arXiv 2203.11926, section 3).

    The original has one backbone for classification and another for dense tasks. They differ in three ways, which are
    the arguments `output_norms`, `pad` and `stem_padding` here.

    Args:
      config: depths, widths and options of the model; `num_classes` is not used.
      precision: dtype of activations and precision of products.
      rngs: random streams for the initialisation.
      platform: platform for which implementations are chosen: "cpu", "gpu", "cuda" or "tpu"; by default JAX's backend.
      outputs: indices of the stages whose maps `features` returns, ascending from 0; by default all stages.
      output_norms: whether `features` applies a LayerNorm to each map that it returns; the next stage receives the map
        before the norm. The norms' parameters are `output_norms/STAGE/{scale,bias}`; the original's are `normSTAGE.*`.
      pad: whether to pad maps with zeros, to the right and below, to a multiple of the stride before each embedding.
        Otherwise, windows that do not fit completely in the map are dropped.
      stem_padding: padding of the overlapped stem (`config.use_conv_embed`: kernel 7, stride 4): 2 in the classifier
        and in FocalNet-DINO, 3 in the original's detectors and segmenters.

    Raises:
      UserError: an option does not fit the model, the precision or the platform.
    """

    def __init__(
        self,
        config: FocalNetConfig,
        *,
        precision: Precision,
        rngs: nnx.Rngs,
        platform: str | None = None,
        outputs: Sequence[int] | None = None,
        output_norms: bool = False,
        pad: bool = False,
        stem_padding: int = 2,
    ):
        self.config = config
        self.outputs = _checked_outputs(outputs, len(config.depths))
        if stem_padding not in (2, 3) or (stem_padding != 2 and not config.use_conv_embed):
            raise UserError(
                f"stem_padding is {stem_padding} with use_conv_embed={config.use_conv_embed}; expected 2, or 3 with "
                "use_conv_embed=True"
            )
        self.compute = compute = choose_compute(
            precision.dtype, precision.matmul, platform, aggregation=config.aggregation, pointwise=config.pointwise
        )
        self.dtype, self.pad = precision.dtype, pad
        overlapped = config.use_conv_embed
        self.patch_embed = PatchEmbed(
            config.in_channels,
            config.dims[0],
            kernel=7 if overlapped else config.patch_size,
            stride=config.patch_size,
            padding=stem_padding if overlapped else 0,
            pad=pad,
            compute=compute,
            rngs=rngs,
        )
        self.stages = nnx.List(
            [Stage(config, stage, pad=pad, compute=compute, rngs=rngs) for stage in range(len(config.depths))]
        )
        # Created only if needed, because each layer draws from `rngs`: a seed must always make the same classifier.
        self.output_norms = (
            nnx.Dict({str(stage): LayerNorm(config.dims[stage], compute, rngs) for stage in self.outputs})
            if output_norms
            else None
        )

    @property
    def channels(self) -> tuple[int, ...]:
        """Number of channels of each map that `features` returns."""
        return tuple(self.config.dims[stage] for stage in self.outputs)

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each map that `features` returns, in pixels of the image, the same along H and W."""
        return tuple(self.config.patch_size * 2**stage for stage in self.outputs)

    def features(self, images: jax.Array, keys: jax.Array | nnx.Rngs | None = None) -> list[jax.Array]:
        """Returns the output `[B, h, w, C]` of each stage in `outputs`, before the stage's downsample.

        The maps are not normalized, unless the backbone has `output_norms`. h and w are H and W divided by the stride,
        rounded up with `pad`, otherwise down (overlapped embeddings, `config.use_conv_embed`, may also round up).

        Args:
          images: normalized images `[B, H, W, 3]`.
          keys: randomness for stochastic depth and dropout, or None to disable both: a key of `jax.random.key` or
            `jax.random.PRNGKey`; one such key per example, `[B]`, so that an example's draws depend only on its own
            key; or `nnx.Rngs`.

        Raises:
          UserError: images or keys have another shape, or the images are too small.
        """
        return self._selected([x for x, _ in self._stage_outputs(images, keys)])

    def look(self, images: jax.Array, probe: BlockProbe) -> tuple[list[Any], list[jax.Array]]:
        """Calls `probe(block, x)` for each block and its input `[B, h, w, C]`.

        Returns:
          The outputs of `probe`, one tree per stage, with arrays `[D, ...]` for D blocks; and the maps of `features`.
        """
        maps, seen = zip(*self._stage_outputs(images, probe=probe), strict=True)
        return list(seen), self._selected(maps)

    def _selected(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
        if self.output_norms is None:
            return [maps[stage] for stage in self.outputs]
        return [self.output_norms[str(stage)](maps[stage]) for stage in self.outputs]

    def _stage_outputs(
        self, images: jax.Array, key: Any = None, probe: BlockProbe | None = None
    ) -> Iterator[tuple[jax.Array, Any]]:
        images = jnp.asarray(images)
        self.check_size(images)
        keys = [None] * (len(self.stages) + 1)
        if key is not None:
            keys = list(split_keys(keys_of_examples(key, len(images)), len(self.stages) + 1))
        x = dropout(self.patch_embed(images.astype(self.dtype)), self.config.drop_rate, keys[-1])
        depths = self.config.depths
        # Computed in float64 on the host, so that the float32 rates equal those of the original's linspace.
        rates = np.split(np.linspace(0, self.config.drop_path_rate, sum(depths)), np.cumsum(depths)[:-1])
        for stage, stage_rates, stage_key in zip(self.stages, rates, keys, strict=False):
            x, seen = stage(x, jnp.asarray(stage_rates, jnp.float32), stage_key, probe)
            yield x, seen
            if stage.downsample is not None:
                x = stage.downsample(x)

    def check_size(self, images: jax.Array) -> None:
        """Raises `UserError` if images are not `[B, H, W, config.in_channels]`, or too small for the strides."""
        stages = len(self.config.depths)
        smallest = self.config.patch_size * 2 ** (stages - 1)
        if self.pad:
            smallest = 1
        elif (
            self.config.use_conv_embed
        ):  # overlapped embeddings pad on all sides, so a map of one position keeps its size
            smallest = 3
        shape = images.shape
        if len(shape) != 4 or shape[3] != self.config.in_channels:
            raise UserError(f"images have shape {shape}; expected [B, H, W, {self.config.in_channels}]")
        if min(shape[1:3]) < smallest:
            raise UserError(
                f"images are {shape[1]}x{shape[2]}; patches of {self.config.patch_size} and {stages} stages need at "
                f"least {smallest}x{smallest}"
            )


class FocalNet(Backbone):
    """Focal Modulation Network (arXiv 2203.11926): a backbone, LayerNorm, mean over H and W, and a linear classifier.

    Stochastic depth and dropout are active in calls with a `key`; without a key, the model is deterministic.

    Args:
      config: configuration of the model; `num_classes=0` makes a model without a classifier.
      precision: dtype of activations and precision of products.
      rngs: random streams for the initialisation.
      platform: platform for which implementations are chosen: "cpu", "gpu", "cuda" or "tpu"; by default JAX's backend.

    Raises:
      UserError: an option does not fit the model, the precision or the platform.
    """

    def __init__(self, config: FocalNetConfig, *, precision: Precision, rngs: nnx.Rngs, platform: str | None = None):
        super().__init__(config, precision=precision, rngs=rngs, platform=platform)
        self.norm = LayerNorm(config.dims[-1], self.compute, rngs)
        # Always float32, because rounding could reorder classes with nearly equal logits, and it costs next to nothing.
        self.head = linear(config.dims[-1], config.num_classes, EXACT, rngs) if config.num_classes else None

    def __call__(self, images: jax.Array, key: jax.Array | nnx.Rngs | None = None) -> jax.Array:
        """Returns logits `[B, K]` float32 or, without a classifier, pooled features `[B, C]` float32.

        Args:
          images: normalized images `[B, H, W, 3]`.
          key: randomness for stochastic depth and dropout, see `features`.

        Raises:
          UserError: images or keys have another shape, or the images are too small.
        """
        return self.classify(self.features(images, key)[-1])

    def classify(self, x: jax.Array) -> jax.Array:
        """Returns logits or pooled features, like `__call__`, from the last map `[B, h, w, C]` of `features`."""
        pooled = self._pooled(x)
        return pooled if self.head is None else by_example(self.head(pooled))

    def pool(self, images: jax.Array) -> jax.Array:
        """Returns the classifier's input, `[B, C]` float32: the mean over H and W of the normalized last map."""
        return self._pooled(self.features(images)[-1])

    def _pooled(self, x: jax.Array) -> jax.Array:
        return by_example(jnp.mean(self.norm(x), axis=(1, 2), dtype=jnp.float32))


def _checked_outputs(outputs: Sequence[int] | None, stages: int) -> tuple[int, ...]:
    if outputs is None:
        return tuple(range(stages))
    valid = outputs and all(isinstance(stage, int | np.integer) for stage in outputs)
    if not valid or list(outputs) != sorted({*outputs} & {*range(stages)}):
        raise UserError(f"outputs is {outputs!r}; expected ascending stages, each from 0 to {stages - 1}")
    return tuple(map(int, outputs))


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    dtype: str | Any = "float32",
    rngs: nnx.Rngs | jax.Array | int = 0,
    **overrides: Any,
) -> FocalNet:
    """Returns a freshly initialised FocalNet.

    Args:
      name: name of a released variant (see `list_models`).
      num_classes: number of classes K; 0 for no classifier; by default 1000, as in the variant.
      dtype: precision policy, "float32" or "bfloat16", as a name or dtype; parameters are float32 in both.
      rngs: randomness for the initialisation: random streams, a seed or a key.
      **overrides: fields of `FocalNetConfig` to replace.

    Raises:
      UserError: a name, option or precision is unknown (the message suggests names), or a value is invalid.
    """
    config = variant_config(name, num_classes=num_classes, **overrides)
    if not isinstance(rngs, nnx.Rngs):
        try:
            rngs = nnx.Rngs(rngs)
        except (TypeError, ValueError) as error:
            raise UserError(f"rngs is {rngs!r}; expected nnx.Rngs, a seed or a key of jax.random") from error
    return FocalNet(config, precision=get_precision(dtype), rngs=rngs)
