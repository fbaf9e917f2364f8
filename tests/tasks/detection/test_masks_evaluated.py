"""Average precision of masks."""

import contextlib
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from focalnet_jax.data.segments import bitmap
from focalnet_jax.ops.nms import Detections
from focalnet_jax.tasks.detection.canvases import Canvases
from focalnet_jax.tasks.detection.composites import DigitComposites
from focalnet_jax.tasks.detection.evaluated import AveragePrecision
from focalnet_jax.tasks.detection.host import DetectionHost
from focalnet_jax.tasks.detection.mask_targets import mask_targets
from focalnet_jax.tasks.detection.options import Options
from focalnet_jax.tasks.detection.truth import as_coco, instances_of_bitmaps

AREAS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
SEGM = {f"segm_{name}" for name in AREAS}
BOX = {f"bbox_{name}" for name in AREAS}


class Blocks:
    """Images with objects of 28 x 28 cells of 1 or 2 pixels each, which masks of detections can show exactly."""

    class_names, category_ids, has_masks = ("cat", "dog"), (7, 3), True

    def __init__(self):
        rng = np.random.default_rng(0)
        self.sizes, self.image_ids = np.array([(90, 120), (120, 90), (90, 120)]), np.array([5, 9, 2])
        self.objects = []
        for index, (height, width) in enumerate(self.sizes.tolist()):
            bitmaps = []
            for number in range(3):
                cells = rng.random((28, 28)) < 0.5
                cells[[0, -1]], cells[:, [0, -1]] = True, True  # the box is that of the cells
                pixels = cells.repeat(number % 2 + 1, axis=0).repeat(number % 2 + 1, axis=1)
                top, left = rng.integers(height - len(pixels) + 1), rng.integers(width - len(pixels) + 1)
                bitmaps.append(np.zeros((height, width), bool))
                bitmaps[-1][top : top + len(pixels), left : left + len(pixels)] = pixels
            ids = [10 * index + number + 1 for number in range(3)]
            self.objects.append(instances_of_bitmaps(index, bitmaps, [0, 1, 1], ids, [False] * 3))

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        return np.zeros((*self.sizes[index], 3), np.uint8), self.objects[index]

    def ground_truth(self):
        """Returns the content of a COCO file."""
        truth = as_coco(self.objects, "abc", self.sizes, self.image_ids, self.class_names)
        ids = {number: each for number, each in enumerate(self.category_ids, 1)}
        truth["categories"] = [each | {"id": ids[each["id"]]} for each in truth["categories"]]
        truth["annotations"] = [each | {"category_id": ids[each["category_id"]]} for each in truth["annotations"]]
        return truth


class Oracle:
    """A `Method` that detects the objects of the batch, with masks or without."""

    def __init__(self, masks=True):
        self.masks = masks

    def prepare(self, batch, key):
        """Returns no targets."""
        return {}

    def loss(self, model, batch, keys):
        """Returns the number of pixels of the masks in a batch of one image."""
        return jnp.unpackbits(batch["masks"]).sum().astype(jnp.float32), {}

    def detect(self, model, batch):
        """Returns the objects of the batch."""

        def one(boxes, labels, size, scale, masks, frames):
            cells = mask_targets(masks, frames, jnp.arange(len(labels)), boxes, size)
            used = labels >= 0
            scores = jnp.where(used, 0.9 - 0.01 * jnp.arange(len(labels)), 0)
            found = cells if self.masks else None
            return Detections(boxes / scale, scores, labels, jnp.int32(0), jnp.array(True), found)

        return jax.vmap(one)(*(batch[name] for name in ("boxes", "labels", "size", "scale", "masks", "frames")))


def evaluated(source, options, method, without=()):
    """Returns the evaluation of all images of a source, each of which is followed by padding in its batch."""
    host = DetectionHost(None, options, slots=8, mask_side=112)
    evaluation = AveragePrecision(source, method, options)
    measure = jax.jit(lambda batch: evaluation.measure(None, batch))
    for index in range(len(source)):
        made = host.eval_example(source[index])
        batch = {name: np.stack([each, each]) for name, each in made.items() if name not in without}
        evaluation.add(jax.tree.map(np.asarray, measure({**batch, "mask": np.float32([1, 0])})))
    return evaluation


STORED = Options(box=(120, 90), canvases=Canvases(96, 128))  # images of `Blocks` keep their size, and are padded


def test_a_detector_that_finds_everything_has_an_ap_of_100():
    source = Blocks()
    of = evaluated(source, STORED, Oracle())
    result = of.result()
    assert set(result) == SEGM | BOX | {"loss", "examples"}
    for kind in ("bbox", "segm"):
        assert [result[f"{kind}_{name}"] for name in AREAS] == pytest.approx([100, 100, 100, 100, 100, -1])
    assert result["examples"] == 3
    pixels = [bitmap(segment, size).sum() for n, size in enumerate(source.sizes) for segment in source[n][1].segments]
    assert result["loss"] == sum(pixels) / 3
    titles, *rows = of.table()
    assert titles == ("class", "box AP", "box AP50", "box AP75", "mask AP", "mask AP50", "mask AP75")
    assert rows == [("cat", *["100.0"] * 6), ("dog", *["100.0"] * 6)]
    assert "mask AP 100.0" in of.describe(result)


def test_results_have_masks_in_the_stored_image():
    source = Blocks()
    of = evaluated(source, Options(box=(240, 180), canvases=Canvases(192, 256)), Oracle())  # twice as large
    for record in of.records():
        index = source.image_ids.tolist().index(record["image_id"])
        size = tuple(source.sizes[index].tolist())
        x, y, width, height = record["bbox"]
        place = source[index][1].boxes[:, :2].tolist().index([x, y])
        expected = bitmap(source[index][1].segments[place], size)
        found = bitmap(record["segmentation"], size)
        np.testing.assert_array_equal(found, expected)
        assert found.sum() == found[int(y) : int(y + height), int(x) : int(x + width)].sum()
    assert len(of.records()) == 9
    assert isinstance(of.records()[0]["segmentation"]["counts"], str)


def test_detectors_and_sources_without_masks_have_boxes_only():
    source = Blocks()
    result = evaluated(source, STORED, Oracle(masks=False)).result()
    assert set(result) == BOX | {"loss", "examples"}
    source.has_masks = False
    of = evaluated(source, STORED, Oracle())
    assert set(of.result()) == BOX | {"loss", "examples"}
    assert "segmentation" in of.records()[0]
    assert of.table()[0] == ("class", "AP", "AP50", "AP75")


def test_without_masks_of_the_objects_a_detector_with_masks_has_no_loss():
    class Guess(Oracle):
        def detect(self, model, batch):
            shape = batch["labels"].shape
            masks = jnp.zeros((*shape, 112, 14), jnp.uint8)
            return super().detect(model, batch | {"masks": masks, "frames": jnp.zeros((*shape, 4))})

    source = Blocks()
    source.has_masks = False
    of = evaluated(source, STORED, Guess(), without=("masks", "frames"))
    result = of.result()
    assert set(result) == BOX | {"examples"}
    assert "loss" not in of.describe(result)


def test_classes_and_areas_of_masks_are_those_of_cocos_tools():
    coco, cocoeval = (pytest.importorskip(f"pycocotools.{name}") for name in ("coco", "cocoeval"))
    source = DigitComposites("val")
    of = evaluated(source, Options(box=(128, 128), canvases=Canvases(128, 128)), Oracle())
    rng = np.random.default_rng(0)
    for index, (boxes, scores, labels, texts) in of._found.items():  # worse masks and scores, some of other classes
        changed = [texts[(row + (rng.random() < 0.2)) % len(texts)] for row in range(len(texts))]
        wrong = np.where(rng.random(len(labels)) < 0.1, (labels + 1) % 10, labels)
        of._found[index] = boxes + rng.normal(0, 1, boxes.shape), scores * rng.random(len(scores)), wrong, changed
    result, records = of.result(), of.records()
    assert 20 < result["segm_ap"] < 90
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = source.ground_truth()
        truth.createIndex()
        for kind, kept in (
            ("bbox", records),
            # COCO's tools take the area of a detection from its box if there is one.
            ("segm", [{key: each for key, each in record.items() if key != "bbox"} for record in records]),
        ):
            expected = cocoeval.COCOeval(truth, truth.loadRes(kept), kind)
            expected.evaluate()
            expected.accumulate()
            expected.summarize()
            for name, value in zip(AREAS, expected.stats, strict=False):
                value = 100 * value if value >= 0 else -1
                assert result[f"{kind}_{name}"] == pytest.approx(value, abs=1e-9), (kind, name)


def test_masks_of_28_cells_show_digits_well():
    of = evaluated(DigitComposites("val"), Options(box=(128, 128), canvases=Canvases(128, 128)), Oracle())
    result = of.result()
    assert result["bbox_ap"] == pytest.approx(100)
    assert result["segm_ap50"] == pytest.approx(100)
    assert result["segm_ap75"] == pytest.approx(100)
    assert 95 < result["segm_ap"] < 100  # their outlines are coarser than the pixels of large digits
