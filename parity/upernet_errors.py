"""Measures the errors between this package's UPerNet and mmsegmentation's, for the same weights and photos."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from skimage import data

from focalnet_jax.convert.mapping import from_tensors, table_entries
from focalnet_jax.convert.tables_upernet import UPERNET_TABLES
from focalnet_jax.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from focalnet_jax.model import variant_config
from focalnet_jax.model.heads.upernet import UPerNet
from focalnet_jax.parameters import named_leaves
from parity.measure import photos, relative
from parity.upernet import EncoderDecoder, arrays, both_logits, build, ours_from

CLASSES, RATE, STEPS = 7, 0.05, 5
HEADS = dict(channels=16, auxiliary_channels=12)
SMALL = dict(embed_dim=12, depths=(1, 1, 2, 1), focal_windows=9, drop_path_rate=0.0)
CONFIGS = {
    "srf": variant_config("focalnet_tiny_srf", **SMALL),
    "lrf": variant_config("focalnet_tiny_lrf", **SMALL),
    "overlapped": variant_config("focalnet_tiny_lrf", **SMALL, use_conv_embed=True, use_layerscale=True),
}
SIZES = ((128, 128), (97, 130), (128, 171))
# A constant per channel, which the BatchNorm after a 1x1 convolution subtracts: the gradient is 0.
WITHOUT_GRADIENT = ("backbone/output_norms/0/bias", "backbone/output_norms/1/bias")


@dataclass(frozen=True)
class TrainingErrors:
    """Relative errors in the 2-norm of one training step: logits of the worst head, worst gradient, worst statistic."""

    logits: float
    gradients: float
    statistics: float
    smallest: float  # norm of the largest gradient that should be 0, relative to the scale's of the same norm


def pair(name: str) -> tuple[EncoderDecoder, UPerNet]:
    """Returns mmsegmentation's small model and this package's, with the same weights."""
    theirs = build(CONFIGS[name], CLASSES, **HEADS)
    return theirs, ours_from(theirs, CONFIGS[name], CLASSES, **HEADS)


def batch() -> np.ndarray:
    """Returns four images: BatchNorm of only two values per channel has a derivative of nearly 0."""
    two = photos(97, 130)
    return np.concatenate([two, two[::-1, ::-1, ::-1] * 0.7])


def forward(model: UPerNet) -> Callable[[np.ndarray], jax.Array]:
    """Returns the jitted call of a model."""
    graph, state = nnx.split(model)  # an argument: XLA would fold constants for minutes
    run = jax.jit(lambda state, images: nnx.merge(graph, state)(images))
    return lambda images: run(state, images)


def logits_error(name: str, size: tuple[int, int]) -> float:
    """Returns the relative error of the logits for photos of a size."""
    theirs, ours = pair(name)
    with torch.no_grad():
        expected, _ = both_logits(theirs, photos(*size))
    return relative(forward(ours)(photos(*size)), expected)


def full_size_errors() -> dict[tuple[int, int], float]:
    """Returns the relative errors of the logits of `tiny_lrf` with 150 classes, by the size of the image."""
    config = variant_config("focalnet_tiny_lrf", focal_windows=9, drop_path_rate=0.0)
    theirs = build(config, 150)
    run, errors = forward(ours_from(theirs, config, 150)), {}
    square = (data.astronaut() / 255 - IMAGENET_MEAN) / IMAGENET_STD
    for width in (512, 683):
        images = np.pad(square, ((0, 0), (0, width - 512), (0, 0)), "reflect")[None].astype(np.float32)
        with torch.no_grad():
            expected, _ = both_logits(theirs, images)
        errors[512, width] = relative(run(images), expected)
    return errors


def variables(model: UPerNet) -> tuple[Any, Any]:
    """Returns the parameters and the running statistics."""
    params, statistics = (nnx.to_pure_dict(nnx.state(model, kind)) for kind in (nnx.Param, nnx.BatchStat))
    return params, statistics


@cache
def training_step(name: str) -> Callable[..., Any]:
    """Returns the jitted function to `((loss, (logits, statistics)), gradients)`."""
    graph, *_ = nnx.split(pair(name)[1], nnx.Param, nnx.BatchStat)

    @jax.jit
    def step(params: Any, statistics: Any, images: jax.Array) -> Any:
        def loss(params: Any) -> Any:
            model = nnx.merge(graph, params, statistics)
            logits = model(images, train=True)
            return loss_of(*logits, jnp), (logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

        return jax.value_and_grad(loss, has_aux=True)(params)

    return step


def loss_of(logits: Any, auxiliary: Any, library: Any) -> Any:
    """Returns a loss that depends on all logits; `library` is `jax.numpy` or `torch`."""
    return library.sin(3 * logits).mean() + 0.4 * library.sin(3 * auxiliary).mean()


def training_errors(name: str) -> TrainingErrors:
    """Returns the errors of a training step with four photos."""
    theirs, ours = pair(name)
    expected = both_logits(theirs.train(), batch())
    loss_of(*expected, torch).backward()
    (_, (logits, statistics)), gradients = training_step(name)(*variables(ours), batch())
    found = named_leaves(gradients)
    wanted = by_our_names({key: each.grad.numpy() for key, each in theirs.named_parameters()}, gradients)
    scales = {key: np.linalg.norm(found[key.replace("bias", "scale")]) for key in WITHOUT_GRADIENT}
    return TrainingErrors(
        max(relative(mine, other.detach()) for mine, other in zip(logits, expected, strict=True)),
        max(relative(leaf, wanted[key]) for key, leaf in found.items() if key not in scales),
        statistics_error(statistics, theirs),
        max(np.linalg.norm(each[key]) / scale for key, scale in scales.items() for each in (found, wanted)),
    )


def run_errors() -> tuple[float, float]:
    """Returns the relative errors of the worst loss and of the worst running statistic, in five steps of SGD."""
    theirs, ours = pair("lrf")
    theirs.train()
    optimizer = torch.optim.SGD(theirs.parameters(), RATE)
    params, statistics = variables(ours)
    losses = []
    for number in range(STEPS):
        images = np.roll(batch(), 7 * number, axis=2)
        expected = loss_of(*both_logits(theirs, images), torch)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        (loss, (_, statistics)), gradients = training_step("lrf")(params, statistics, images)
        params = jax.tree.map(lambda param, gradient: param - RATE * gradient, params, gradients)
        losses.append(relative(loss, expected.detach()))
    return max(losses), statistics_error(statistics, theirs)


def statistics_error(statistics: Any, theirs: EncoderDecoder) -> float:
    """Returns the relative error of the worst running statistic."""
    wanted = by_our_names({key: each for key, each in arrays(theirs).items() if "running" in key}, statistics)
    return max(relative(leaf, wanted[key]) for key, leaf in named_leaves(statistics).items())


def by_our_names(tensors: Mapping[str, np.ndarray], like: Any) -> dict[str, np.ndarray]:
    """Returns arrays by this package's names from mmsegmentation's tensors for the variables `like`."""
    entries = table_entries(UPERNET_TABLES["mmseg"], named_leaves(like), postln=False, format="mmseg")
    return named_leaves(from_tensors(tensors, entries, like))


def rows() -> list[str]:
    """Returns the rows of the table in docs/parity.md."""
    training = [training_errors(name) for name in CONFIGS]
    loss, statistics = run_errors()
    small = "small, 97x130"
    return [
        *(
            f"| logits | small, {height}x{width} | {max(logits_error(name, (height, width)) for name in CONFIGS):.1e} |"
            for height, width in SIZES
        ),
        *(
            f"| logits | tiny_lrf, {height}x{width} | {error:.1e} |"
            for (height, width), error in full_size_errors().items()
        ),
        f"| logits and auxiliary logits in training | {small} | {max(each.logits for each in training):.1e} |",
        f"| gradient of every parameter | {small} | {max(each.gradients for each in training):.1e} |",
        f"| loss of each of {STEPS} steps of SGD | {small} | {loss:.1e} |",
        f"| running statistics after {STEPS} steps | {small} | {statistics:.1e} |",
    ]
