"""Images with random objects and masks, on which losses of detectors are compared."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from focalnet_jax.data.mask_crops import packed_crop
from parity.detector_errors import CLASSES
from parity.measure import photos

SLOTS = 9


@dataclass(frozen=True)
class Scene:
    """Images of a comparison.

    Attributes:
      images: two images on a canvas `[2, H, W, 3]`, whose sides are multiples of 32.
      sizes: their heights and widths without padding, which is less than 32.
      classes: number of classes.
    """

    images: np.ndarray
    sizes: tuple[tuple[int, int], ...]
    classes: int

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the canvas."""
        return self.images.shape[1:3]


def photo_scene() -> Scene:
    """Returns two photos."""
    return Scene(np.array(photos(128, 160)[:2]), ((128, 160), (100, 140)), CLASSES)


def objects(scene: Scene, seed: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Returns boxes `[n, 4]`, classes `[n]` and masks `[n, H, W]` of random ellipses in each image."""
    rng, found = np.random.default_rng(seed), []
    for height, width in scene.sizes:
        count = int(rng.integers(3, SLOTS))
        sides = rng.uniform(12, 70, (count, 2)) * min(height, width) / 100
        corners = rng.uniform(0, 1, (count, 2)) * np.maximum((width, height) - sides, 1)
        boxes = np.concatenate([corners, np.minimum(corners + sides, (width, height))], axis=1).astype(np.float32)
        rows, columns = np.mgrid[: scene.canvas[0], : scene.canvas[1]] + 0.5
        centres, radii = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        across, down = (
            (grid[None] - centres[:, axis, None, None]) / radii[:, axis, None, None]
            for axis, grid in enumerate((columns, rows))
        )
        masks = (across**2 + down**2 <= 1) & (rows < height) & (columns < width)
        found.append((boxes, rng.integers(0, scene.classes, count), masks))
    return found


def batch_of(scene: Scene, found: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, jax.Array]:
    """Returns a batch of the images with these objects, padded with 0."""
    images, most = scene.images.copy(), max(scene.canvas)
    arrays = {
        "size": np.array(scene.sizes, np.int32),
        "boxes": np.zeros((len(found), SLOTS, 4), np.float32),
        "labels": np.full((len(found), SLOTS), -1, np.int32),
        "masks": np.zeros((len(found), SLOTS, most, most // 8), np.uint8),
        "frames": np.zeros((len(found), SLOTS, 4), np.float32),
    }
    for index, (boxes, labels, masks) in enumerate(found):
        images[index, scene.sizes[index][0] :], images[index, :, scene.sizes[index][1] :] = 0, 0
        arrays["boxes"][index, : len(boxes)], arrays["labels"][index, : len(labels)] = boxes, labels
        for slot, mask in enumerate(masks):
            crop, frame = packed_crop(mask, 0, 0, most)
            arrays["masks"][index, slot], arrays["frames"][index, slot] = crop, frame
    return {"image": jnp.asarray(images), **{key: jnp.asarray(each) for key, each in arrays.items()}}
