"""Workers that measure UPerNet here and in mmsegmentation, for `python -m benchmarks.cpu --task segmentation`."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import FrozenConfigDict

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/mmsegmentation.py

from benchmarks.side_by_side import Comparison, Timed, our_step, timed_steps, work
from focalnet_jax.programs.config_files import load_config

SIZE, CLASSES = 512, 150
_OWN = ("--config.data.path=none", "--config.init_from=none", "--config.init_head=auto")  # noise as data, new weights


def load_segmentation(model: str, overrides: Sequence[str] = ()) -> FrozenConfigDict:
    """Returns the config of the recipe for ADE20K for a variant such as tiny_srf."""
    return load_config(f"configs/upernet_ade20k.py:{model}", [*_OWN, *overrides])


MMSEGMENTATION = Comparison(
    "benchmarks.mmsegmentation",
    ("torch", "mmseg"),
    ("ours", "mmsegmentation", "mmsegmentation compiled"),
    load_segmentation,
)


def noise(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images `[B, H, W, 3]` and masks `[B, H, W]` uint8."""
    draw = np.random.default_rng(0)
    return tuple(
        draw.integers(0, below, (count, SIZE, SIZE, *channels)).astype(np.uint8)
        for below, channels in ((256, (3,)), (CLASSES, ()))
    )


def ours(model: str, batch: int, precision: str, overrides: Sequence[str]) -> Timed:
    """Returns functions that run a number of steps of training or inference, and return the seconds that they take.

    Inference returns the class of every pixel.
    """
    import jax
    import jax.numpy as jnp

    from focalnet_jax.tasks.segmentation.inference import predict_classes
    from focalnet_jax.tasks.segmentation.shapes import inference_of
    from focalnet_jax.training.state import merge_model

    settings = [f"--config.batch_size={batch}", f"--config.precision={precision}", *overrides]
    config = load_segmentation(model, settings)
    images, masks = noise(batch)
    sizes = np.tile(np.array([SIZE, SIZE], np.int32), (batch, 1))
    train_step, state, given, spec = our_step(config, {"image": images, "mask": masks, "size": sizes})
    shown = {"image": given["image"], "size": given["size"], "classes": jnp.asarray(masks)}
    options = inference_of(config)
    predict = jax.jit(lambda variables, shown: predict_classes(merge_model(spec.graph, variables), shown, options))
    return timed_steps(train_step, state, given, lambda variables: predict(variables, shown))


def theirs(model: str, batch: int, precision: str, *, compiled: bool) -> Timed:
    """Returns the functions of `ours` for mmsegmentation's UPerNet: channels last, AdamW, no stochastic depth."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about operations that mmcv-lite lacks
        from mmseg.structures import SegDataSample

        from focalnet_jax.config import model_config
        from parity.upernet import build, pixels

    assert precision == "float32"
    images, masks = noise(batch)
    net = build(model_config(load_segmentation(model)), CLASSES).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), 6e-5, weight_decay=0.01, fused=True)
    given = pixels(images.astype(np.float32) / 128 - 1).to(memory_format=torch.channels_last)
    samples = [SegDataSample() for _ in masks]
    for sample, mask in zip(samples, masks, strict=True):
        sample.gt_sem_seg = _pixel_data(torch.from_numpy(mask.astype(np.int64))[None])
        sample.set_metainfo({"img_shape": (SIZE, SIZE), "ori_shape": (SIZE, SIZE)})
    meta = [dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE))] * batch

    def loss() -> torch.Tensor:
        return sum(value for name, value in net.loss(given, samples).items() if "loss" in name)

    def classes() -> torch.Tensor:
        return net.encode_decode(given, meta).argmax(1)

    if compiled:
        net.backbone = torch.compile(net.backbone)
        net.decode_head.forward = torch.compile(net.decode_head.forward)
        net.auxiliary_head.forward = torch.compile(net.auxiliary_head.forward)

    def train(steps: int) -> float:
        net.train()
        begun = time.perf_counter()
        for _ in range(steps):
            loss().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - begun

    def inference(steps: int) -> float:
        net.eval()
        begun = time.perf_counter()
        with torch.no_grad():
            for _ in range(steps):
                classes()
        return time.perf_counter() - begun

    return {"train": train, "inference": inference}


def _pixel_data(mask):
    from mmengine.structures import PixelData

    return PixelData(data=mask)


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    work(ours, theirs, sys.argv[1:])
