"""FocalNet: embedding, stages of focal blocks, pooled classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from focalnet_jax.distributed.activations import by_example
from focalnet_jax.errors import UserError
from focalnet_jax.model.blocks import BlockProbe, PatchEmbed, Stage
from focalnet_jax.model.layers import dropout, keys_of_examples, layer_norm, linear, split_keys
from focalnet_jax.model.precision import Precision, get_precision
from focalnet_jax.model.variants import FocalNetConfig, variant_config
from focalnet_jax.ops.implementations import FORMS, choose_form


class FocalNet(nnx.Module):
    """Focal Modulation Network (arXiv 2203.11926).

    Stochastic depth and dropout are active when a call is given a PRNG `key`, otherwise the model is deterministic.
    It is made for JAX's default platform, or for the one that is named.
    """

    def __init__(self, config: FocalNetConfig, *, precision: Precision, rngs: nnx.Rngs, platform: str | None = None):
        self.config = config
        platform = platform or jax.default_backend()
        dtype = jnp.dtype(precision.dtype).name
        forms = {option: choose_form(option, getattr(config, option), platform, dtype) for option in FORMS}
        if config.aggregation == "native" and dtype != "float32":
            raise UserError(f"model.aggregation=native computes in float32, the model in {dtype}: leave it at auto")
        config = dataclasses.replace(config, **forms)
        self.dtype = precision.dtype
        self.patch_embed = PatchEmbed(
            config.in_channels,
            config.dims[0],
            config.patch_size,
            overlapped=config.use_conv_embed,
            stem=True,
            pointwise=config.pointwise,
            form=config.aggregation,
            precision=precision,
            rngs=rngs,
        )
        self.stages = nnx.List(
            [Stage(config, stage, precision=precision, rngs=rngs) for stage in range(len(config.depths))]
        )
        self.norm = layer_norm(config.dims[-1], precision, rngs, config.aggregation)
        exact = get_precision("float32")  # the classifier's sums decide ties between classes and cost next to nothing
        self.head = linear(config.dims[-1], config.num_classes, exact, rngs) if config.num_classes else None

    def __call__(self, images: jax.Array, key: jax.Array | nnx.Rngs | None = None) -> jax.Array:
        """Logits `[B, K]`, float32, of normalized images `[B, H, W, 3]`.

        A `key`, of `jax.random.key` or `jax.random.PRNGKey`, or `nnx.Rngs` makes stochastic depth and dropout active,
        or a key for every example, `[B]`: what is drawn for one depends on its own alone, whatever batch it stands in.

        Without a classifier (`num_classes=0`): the pooled features `[B, C]`, float32.
        """
        *_, (x, _) = self._stage_outputs(images, key)
        return self.classify(x)

    def features(self, images: jax.Array) -> list[jax.Array]:
        """The output of each stage before its downsample, `[B, h, w, C]`, not normalized."""
        return [x for x, _ in self._stage_outputs(images)]

    def look(self, images: jax.Array, look: BlockProbe) -> tuple[list[Any], list[jax.Array]]:
        """What `look(block, x)` returns of each block and its input `[B, h, w, C]`, and `features`.

        The first is a tree of arrays `[D, ...]` for each stage of D blocks.
        """
        outputs, seen = zip(*self._stage_outputs(images, look=look), strict=True)
        return list(seen), list(outputs)

    def classify(self, x: jax.Array) -> jax.Array:
        """What a call returns, of the last of `features`, `[B, h, w, C]`."""
        pooled = self._pooled(x)
        return pooled if self.head is None else by_example(self.head(pooled))

    def pool(self, images: jax.Array) -> jax.Array:
        """What the classifier is given, `[B, C]`, float32: the normalized last map's mean over places."""
        return self._pooled(self.features(images)[-1])

    def _pooled(self, x: jax.Array) -> jax.Array:
        return by_example(jnp.mean(self.norm(x), axis=(1, 2), dtype=jnp.float32))

    def _stage_outputs(
        self, images: jax.Array, key: jax.Array | None = None, look: BlockProbe | None = None
    ) -> Iterator[tuple[jax.Array, Any]]:
        images = jnp.asarray(images)
        self.check_size(images)
        keys = [None] * (len(self.stages) + 1)
        if key is not None:
            keys = list(split_keys(keys_of_examples(key, len(images)), len(self.stages) + 1))
        x = dropout(self.patch_embed(images.astype(self.dtype)), self.config.drop_rate, keys[-1])
        depths = self.config.depths
        # float64 on the host, so that the scanned rates are the rounded ones of the original's linspace
        rates = np.split(np.linspace(0, self.config.drop_path_rate, sum(depths)), np.cumsum(depths)[:-1])
        for stage, stage_rates, stage_key in zip(self.stages, rates, keys, strict=False):
            x, seen = stage(x, jnp.asarray(stage_rates, jnp.float32), stage_key, look)
            yield x, seen
            if stage.downsample is not None:
                x = stage.downsample(x)

    def check_size(self, images: jax.Array) -> None:
        """Refuses images of another shape than `[B, H, W, 3]`, and too small ones: `UserError`."""
        stages = len(self.config.depths)
        # Overlapped embeddings pad: a map of one pixel stays one.
        smallest = 3 if self.config.use_conv_embed else self.config.patch_size * 2 ** (stages - 1)
        shape = images.shape
        if len(shape) != 4 or shape[3] != self.config.in_channels:
            raise UserError(f"images have shape {shape}; expected [B, H, W, {self.config.in_channels}]")
        if min(shape[1:3]) < smallest:
            raise UserError(
                f"images are {shape[1]}x{shape[2]}; patches of {self.config.patch_size} and {stages} stages need at "
                f"least {smallest}x{smallest}"
            )


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    dtype: str | Any = "float32",
    rngs: nnx.Rngs | jax.Array | int = 0,
    **overrides: Any,
) -> FocalNet:
    """A freshly initialised FocalNet.

    Args:
      name: a released variant, see `list_models`.
      num_classes: K, the classifier's width; 0 for none; the variant's 1000 by default.
      dtype: precision policy, "float32" or "bfloat16", or such a dtype; parameters are float32 in both.
      rngs: random streams for the initialisation, a seed or a key.
      **overrides: any field of `FocalNetConfig` to replace.

    Raises:
      UserError: unknown name, option or precision (with the nearest names), or a value that does not fit.
    """
    config = variant_config(name, num_classes=num_classes, **overrides)
    if not isinstance(rngs, nnx.Rngs):
        try:
            rngs = nnx.Rngs(rngs)
        except (TypeError, ValueError) as error:
            raise UserError(f"rngs is {rngs!r}; expected nnx.Rngs, a seed or a key of jax.random") from error
    return FocalNet(config, precision=get_precision(dtype), rngs=rngs)
