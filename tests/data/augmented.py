"""Golden results of mmsegmentation's training transforms, which `parity.golden_augmentation` writes."""

import hashlib
import json
from pathlib import Path

import numpy as np

from focalnet_jax.data.photometric import Distortion
from focalnet_jax.tasks.segmentation.augment import Draws

GOLDEN = Path(__file__).parent / "golden" / "augmented_masks.npz"


def digest(array):
    """Returns a digest of the shape and values of an array of integers."""
    return hashlib.sha256(repr(array.shape).encode() + np.ascontiguousarray(array, np.uint8).tobytes()).hexdigest()[:16]


def read_golden():
    """Yields the size of crops, an image, its mask, draws, and the digests of the resulting image and mask."""
    with np.load(GOLDEN) as file:
        arrays = dict(file)
    for case in json.loads(arrays["expected"].item()):
        draws = case["draws"] | {"distortion": Distortion(**case["draws"]["distortion"])}
        draws |= {"full": tuple(draws["full"]), "corners": tuple(map(tuple, draws["corners"]))}
        image, mask = arrays[f"image{case['photo']}"], arrays[f"mask{case['photo']}"]
        yield tuple(arrays["size"].tolist()), image, mask, Draws(**draws), (case["image"], case["mask"])
