"""Measures the errors between this package and a PyTorch library, for the same weights and images."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import torch
from flax import nnx
from safetensors.torch import save_file
from skimage import data

import focalnet_jax
from focalnet_jax.convert.mapping import tensors_to_params
from focalnet_jax.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from focalnet_jax.model import FocalNetConfig, list_models, variant_config
from focalnet_jax.parameters import named_leaves
from parity import pytorch

SIZES = ((224, 224), (192, 192), (225, 240), (256, 320))
FULL = ("focalnet_tiny_lrf", "focalnet_base_srf", "focalnet_large_fl4")  # compared at full size
CLASSES = 10


@dataclass(frozen=True)
class Errors:
    """Relative errors in the 2-norm: logits, features of the worst stage, and gradient of the worst parameter."""

    logits: float
    features: float
    gradients: float | None


def reduced(name: str) -> FocalNetConfig:
    """Returns a narrow and shallow config with all flags of the variant `config`. Deeper stages keep more blocks."""
    config = variant_config(name)
    depths = tuple({2: 1, 6: 2, 18: 3, 12: 2}[depth] for depth in config.depths)
    return dataclasses.replace(config, embed_dim=16, depths=depths, num_classes=CLASSES, drop_path_rate=0.0)


def distinct_flags() -> dict[FocalNetConfig, list[str]]:
    """Returns every reduced config once, with the short names of the variants that reduce to it."""
    names: dict[FocalNetConfig, list[str]] = {}
    for name in list_models():
        names.setdefault(reduced(name), []).append(name.removeprefix("focalnet_"))
    return names


def sizes(library: str, config: FocalNetConfig) -> list[tuple[int, int]]:
    """Returns the input sizes to compare; for transformers, without sizes that it pads."""
    total = config.patch_size * 2 ** (len(config.depths) - 1)
    return [size for size in SIZES if library == "timm" or not any(side % total for side in size)]


@cache
def photos(height: int, width: int) -> np.ndarray:
    """Returns two normalized photos, `[2, height, width, 3]` float32."""
    pixels = np.stack([photo[:height, :width] for photo in (data.astronaut(), data.cat()[:, :400])]) / 255
    return ((pixels - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32)


def soft_targets(classes: int, batch: int = 2) -> np.ndarray:
    """Returns soft targets `[batch, classes]` float32, whose rows sum to 1."""
    return np.random.default_rng(0).dirichlet(np.ones(classes), batch).astype(np.float32)


def load(model: torch.nn.Module, config: FocalNetConfig, *, dtype: str = "float32") -> focalnet_jax.model.FocalNet:
    """Returns this package's model with the weights of the torch model, transferred through a file and `load_model`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
        unstated = dict(use_postln=config.use_postln, normalize_modulator=config.normalize_modulator)
        return focalnet_jax.load_model(path, dtype=dtype, **unstated)


def compare(
    config: FocalNetConfig,
    library: str,
    size: tuple[int, int],
    *,
    gradients: bool = False,
    change: Callable[[jax.Array], jax.Array] = lambda leaf: leaf,
) -> Errors:
    """Returns the float32 errors of logits, features and gradients of `config` against `library`, for photos of `size`.

    `change`, applied to every parameter of this package's model, introduces an error that the comparison must detect.
    """
    theirs = pytorch.build(config, library)
    ours = load(theirs, config)
    images, targets = photos(*size), soft_targets(config.num_classes)
    expected = pytorch.run(theirs, images, targets, gradients=gradients)
    graph, params = nnx.split(ours)
    quick = {"xla_backend_optimization_level": 0}  # for a single evaluation, compilation takes longest

    def loss(params: Any) -> tuple[jax.Array, tuple[jax.Array, list[jax.Array]]]:
        model = nnx.merge(graph, params)
        features = model.features(images)
        logits = model.classify(features[-1])
        return optax.softmax_cross_entropy(logits, targets).mean(), (logits, features)

    computed = jax.grad(loss, has_aux=True) if gradients else lambda params: (None, loss(params)[1])
    found, (logits, features) = jax.jit(computed, compiler_options=quick)(
        jax.tree.map(change, nnx.to_pure_dict(params))
    )
    worst = None
    if gradients:
        wanted = named_leaves(tensors_to_params(expected.gradients, config, pytorch.FORMATS[library]))
        worst = max(relative(leaf, wanted[name]) for name, leaf in named_leaves(found).items())
    return Errors(
        relative(logits, expected.logits),
        max(relative(a, b) for a, b in zip(features, expected.features, strict=True)),
        worst,
    )


def bfloat16_errors(config: FocalNetConfig, library: str) -> tuple[float, float]:
    """Returns the relative errors of bfloat16 logits against float32 logits, for this package and for the library."""
    theirs = pytorch.build(config, library)
    ours = load(theirs, config, dtype="bfloat16")
    images, targets = photos(224, 224), soft_targets(config.num_classes)
    exact = pytorch.run(theirs, images, targets, gradients=False).logits
    with torch.autocast("cpu", torch.bfloat16):
        rounded = pytorch.run(theirs, images, targets, gradients=False).logits
    return relative(jax.jit(ours)(images), exact), relative(rounded, exact)


def relative(ours: Any, theirs: Any) -> float:
    """Returns |ours - theirs| / |theirs| in the 2-norm over all elements, summed in float64."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes {ours.shape} and {theirs.shape} differ")
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
