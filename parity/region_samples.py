"""Passes through mmdetection's heads of regions, with the samples of anchors and RoIs that this package draws.

mmdetection's sampler takes the boxes of the largest numbers, which are those that this package draws with the keys of a
step.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from focalnet_jax.tasks.detection.mask_rcnn import MaskRCNNMethod, sampling_keys
from focalnet_jax.tasks.detection.rpn import Proposals
from parity.detectors import OrderedSampler


def anchor_numbers(
    method: MaskRCNNMethod, images: jax.Array, sizes: Sequence[Sequence[int]], key: jax.Array
) -> list[np.ndarray]:
    """Returns the numbers of the anchors of each image that mmdetection's sampler sees.

    Args:
      method: this package's method.
      images: images `[B, H, W, 3]`, whose padding is less than 32.
      sizes: their heights and widths without padding, `[B, 2]`.
      key: key of `MaskRCNNMethod.prepare`.
    """
    edges, found = method.anchors(images).boxes, []
    for (height, width), each in zip(sizes, jax.random.split(key, len(images)), strict=True):
        numbers = np.asarray(jax.random.uniform(each, (len(edges),)))
        inside = (edges[:, :2] >= 0).all(axis=1) & (edges[:, 2] < width) & (edges[:, 3] < height)
        found.append(numbers if method.rpn.crossing else numbers[inside])
    return found


def candidate_numbers(
    method: MaskRCNNMethod,
    model: nnx.Module,
    maps: Sequence[jax.Array],
    batch: dict[str, jax.Array],
    proposals: Proposals,
    keys: jax.Array,
) -> list[tuple[jax.Array, jax.Array]]:
    """Returns the numbers of the candidates of each stage and whether they exist, both `[B, N + P]`, when traced.

    The arguments are those of `MaskRCNNMethod.passes`.
    """
    draws, found = sampling_keys(keys, len(batch["labels"])), []
    for stage, done in enumerate(method.passes(model, maps, batch, proposals, keys)):
        used = jnp.concatenate([batch["labels"] >= 0, done.proposals.used], axis=1)
        each = jax.vmap(jax.random.fold_in, (0, None))(draws, stage)
        numbers = jax.vmap(lambda key, count=used.shape[1]: jax.random.uniform(key, (count,)))(each)
        found.append((numbers, used))
    return found


def anchor_losses(
    model: torch.nn.Module, maps: Sequence[torch.Tensor], samples: list[Any], numbers: list[np.ndarray]
) -> tuple[dict[str, Any], list[Any]]:
    """Returns the losses of mmdetection's region proposal network, and its proposals of each image.

    Args:
      model: mmdetection's detector.
      maps: maps of its neck.
      samples: its images with objects.
      numbers: result of `anchor_numbers`.
    """
    OrderedSampler.orders[:] = numbers
    one_class = copy.deepcopy(samples)
    for each in one_class:
        each.gt_instances.labels = torch.zeros_like(each.gt_instances.labels)
    return model.rpn_head.loss_and_predict(maps, one_class, proposal_cfg=model.train_cfg.rpn_proposal)


def roi_losses(
    model: torch.nn.Module,
    maps: Sequence[torch.Tensor],
    samples: list[Any],
    proposals: list[Any],
    numbers: Sequence[tuple[jax.Array, jax.Array]],
) -> dict[str, Any]:
    """Returns the losses of mmdetection's heads of RoIs.

    Args:
      model: mmdetection's detector.
      maps: maps of its neck.
      samples: its images with objects.
      proposals: proposals of each image, in the order of this package.
      numbers: result of `candidate_numbers`.
    """
    OrderedSampler.orders[:] = [
        np.asarray(drawn)[image][np.asarray(used)[image]] for drawn, used in numbers for image in range(len(samples))
    ]
    losses = model.roi_head.loss(maps, proposals, samples)
    assert not OrderedSampler.orders
    return losses


def terms_of(losses: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Returns mmdetection's terms by this package's names."""
    names = {"loss_rpn_cls": "rpn_class_loss", "loss_rpn_bbox": "rpn_box_loss"}
    names |= {"loss_centerness": "centerness_loss"}
    names |= {"loss_iou": "giou_loss", "loss_cls": "class_loss", "loss_bbox": "box_loss", "loss_mask": "mask_loss"}
    terms = {}
    for key, value in losses.items():
        stage, _, rest = key.rpartition(".")
        if rest in names:
            prefix = f"stage{int(stage[1:]) + 1}_" if stage else ""
            terms[prefix + names[rest]] = sum(value) if isinstance(value, list) else value
    return terms
