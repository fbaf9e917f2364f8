"""The memory of the host stays the same while many batches of images with boxes and masks are read."""

import numpy as np
import psutil

from focalnet_jax.data.instances import Instances
from focalnet_jax.data.loader import ReadOptions, train_batches
from focalnet_jax.tasks.detection.augment import Augmentation
from focalnet_jax.tasks.detection.canvases import Canvases
from focalnet_jax.tasks.detection.host import DetectionHost
from focalnet_jax.tasks.detection.options import Options

BATCH, BATCHES, BEFORE = 1, 20_000, 1_000
CANVASES = Canvases(32, 48)
TRAIN = Augmentation(
    CANVASES,
    short_sides=(24, 28, 32),
    long_side=48,
    crop_short_sides=(28, 32),
    crop_range=(20, 28),
    slots=4,
    mask_side=8,
)
HOST = DetectionHost(TRAIN, Options(box=(48, 32), canvases=CANVASES), slots=4, mask_side=8)


class Shapes:
    """Images of two orientations with a triangle and an encoded rectangle each, made anew whenever one is read."""

    class_names, fingerprint = ("triangle", "rectangle"), "shapes"

    def __init__(self):
        self.sizes = np.array([(24, 32) if index % 3 else (32, 24) for index in range(60)])

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        height, width = self.sizes[index].tolist()
        image = np.full((height, width, 3), index, np.uint8)
        boxes = np.array([[2, 2, 14, 12], [8, 0, 12, height]], np.float32)
        encoding = {"size": [height, width], "counts": [8 * height, 4 * height, (width - 12) * height]}
        segments = [[[2, 2, 14, 2, 8, 12]], encoding]
        labels, areas = np.array([0, 1], np.int32), np.array([60, 4 * height], np.float32)
        crowd, ids = np.zeros(2, bool), np.array([2 * index, 2 * index + 1])
        return image, Instances(index, boxes, labels, crowd, areas, ids, segments)

    def name(self, index):
        """Returns the number of an image as text."""
        return str(index)


def test_memory_does_not_grow_over_many_batches():
    source = Shapes()
    stream = train_batches(
        source,
        HOST,
        batch_size=BATCH,
        seed=0,
        start_step=0,
        end_step=BATCHES,
        groups=CANVASES.groups(source.sizes),
        reading=ReadOptions(threads=2),
    )

    def resident():
        return psutil.Process().memory_info().rss / 1e6

    for _ in range(BEFORE):
        batch = next(stream)
    begun, count, drawn = resident(), BEFORE, 0
    for batch in stream:
        count += 1
        drawn += batch["masks"].any()
    assert count == BATCHES
    assert drawn > 0.9 * (BATCHES - BEFORE)  # a crop may contain no object
    kept = (BATCHES - BEFORE) * sum(array.nbytes for array in batch.values()) / 1e6
    assert kept > 75  # MB, if all batches were kept
    assert resident() - begun < 25  # MB
