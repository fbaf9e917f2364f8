"""The small detectors of the golden files, and the calls that compute their outputs."""

import jax.numpy as jnp
import numpy as np

from focalnet_jax.model import FocalNetConfig
from focalnet_jax.model.heads.atss import ATSS
from focalnet_jax.model.heads.mask_rcnn import CascadeMaskRCNN, MaskRCNN
from focalnet_jax.model.heads.sparse_rcnn import STAGES, SparseRCNN

DETECTORS = {"atss": ATSS, "mask_rcnn": MaskRCNN, "cascade_mask_rcnn": CascadeMaskRCNN, "sparse_rcnn": SparseRCNN}
CLASSES = 3
CONFIG = FocalNetConfig(embed_dim=4, depths=(1, 1, 1, 1), focal_levels=1, focal_windows=3, drop_path_rate=0.0)
OPTIONS = {
    "atss": dict(channels=32, convs=1),
    "mask_rcnn": dict(channels=4, hidden=6),
    "cascade_mask_rcnn": dict(channels=4, hidden=6),
    # LayerNorm over a few values amplifies errors.
    "sparse_rcnn": dict(channels=16, proposals=3, dynamic=8, hidden=12),
}
# Sizes at which no group of GroupNorm has two values, where it amplifies errors.
SIZE = (57, 59)
LOSS_SIZES = ((57, 59), (40, 50))  # of the images whose losses are compared
CORNERS = ((0, 0), (1, 1), (0, 1))  # of windows in the largest map, which replace the maps of RoIs


def padded(images):
    """Returns the images of a golden file, `[2, 64, 64, 3]`, that are 0 outside of `LOSS_SIZES`."""
    out = np.zeros((2, 64, 64, 3), np.float32)
    for index, (height, width) in enumerate(LOSS_SIZES):
        out[index, :height, :width] = images[index, :height, :width]
    return out


def windows(x, side, library):
    """Returns windows `[B, N, side, side, C]` of a map `[B, H, W, C]`; `library` is `jax.numpy` or `torch`."""
    return library.stack([x[:, row : row + side, column : column + side] for row, column in CORNERS], 1)


def all_outputs(model, images, train=False):
    """Returns all outputs of a detector, in the order of their computation."""
    if isinstance(model, ATSS):
        return [each for outputs in model(images) for each in outputs]
    maps = model.maps(images)
    rois, found = windows(maps[0], 7, jnp), list(maps)
    if isinstance(model, MaskRCNN):
        found += [each for outputs in model.rpn(maps) for each in outputs]
        for stage in range(model.stages or 1):
            found += model.box_head(rois, stage, train=train)
            found.append(model.mask_head(windows(maps[0], 14, jnp), stage))
        return found
    boxes, features = model.proposals()
    features = jnp.broadcast_to(features, (len(images), *features.shape))
    for stage in range(STAGES):
        logits, deltas, features = model.box_head(rois, features, stage)
        found += [logits, deltas, features]
    return [*found, boxes]
