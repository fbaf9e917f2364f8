"""Average precision of boxes."""

import numpy as np
import pytest

from focalnet_jax.tasks.detection.composites import DigitComposites
from focalnet_jax.tasks.detection.evaluated import AveragePrecision, ap_metrics
from focalnet_jax.tasks.detection.options import Options


class Truth:
    """A source with given boxes: one class with id 7 and one with id 3."""

    class_names, category_ids = ("cat", "dog"), (7, 3)
    image_ids, sizes = np.array([10, 20]), np.array([(100, 100), (100, 100)])

    def __init__(self, annotations):
        self.annotations = annotations

    def __len__(self):
        return 2

    def ground_truth(self):
        """Returns the content of a COCO file."""
        return {
            "images": [{"id": each, "width": 100, "height": 100} for each in (10, 20)],
            "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
            "annotations": [
                {
                    "id": 1 + n,
                    "image_id": image,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
                for n, (image, label, box) in enumerate(self.annotations)
            ],
        }


def measured(rows, slots=4):
    """Returns what `measure` returns for images with detections (box, score, label)."""
    batch = {name: [] for name in ("boxes", "scores", "labels", "index", "mask", "loss", "overflow")}
    for index, found in rows:
        empty = slots - len(found)
        batch["boxes"].append([box for box, *_ in found] + [(0, 0, 0, 0)] * empty)
        batch["scores"].append([score for _, score, _ in found] + [0] * empty)
        batch["labels"].append([label for *_, label in found] + [-1] * empty)
        batch["index"].append(max(index, 0))
        batch["mask"].append(float(index >= 0))
        batch["loss"].append(2.0 * (index + 1))
        batch["overflow"].append(0)
    return {name: np.array(value, np.float32 if name in ("boxes", "scores") else None) for name, value in batch.items()}


CAT, DOG = (10, 7, [10, 10, 20, 20]), (20, 3, [30, 30, 50, 40])


def evaluation(annotations=(CAT, DOG)):
    return AveragePrecision(Truth(annotations), None, Options())


def test_a_detector_that_finds_everything_has_an_ap_of_100():
    of = evaluation()
    of.add(measured([(0, [((10, 10, 30, 30), 0.9, 0)]), (1, [((30, 30, 80, 70), 0.4, 1)])]))
    result = of.result()
    assert result == pytest.approx(
        {
            "bbox_ap": 100,
            "bbox_ap50": 100,
            "bbox_ap75": 100,
            "bbox_ap_small": 100,
            "bbox_ap_medium": 100,
            "bbox_ap_large": -1,
            "loss": 3,
            "examples": 2,
        }
    )
    assert of.table() == [
        ("class", "AP", "AP50", "AP75"),
        ("cat", "100.0", "100.0", "100.0"),
        ("dog", "100.0", "100.0", "100.0"),
    ]


def test_classes_are_rows_of_the_table_in_the_order_of_the_outputs():
    of = evaluation()
    of.add(measured([(0, [((10, 10, 30, 30), 0.9, 0)]), (1, [])]))
    assert of.result()["bbox_ap"] == pytest.approx(50)
    assert [row[:2] for row in of.table()[1:]] == [("cat", "100.0"), ("dog", "0.0")]


def test_results_name_images_and_categories_by_the_ids_of_the_data():
    of = evaluation()
    of.add(measured([(1, [((30, 30, 80, 71), 0.5, 1)]), (0, [((1, 2, 4, 6), 0.25, 0)])]))
    assert of.records() == [
        {"image_id": 10, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.25},
        {"image_id": 20, "category_id": 3, "bbox": [30, 30, 50, 41], "score": 0.5},
    ]


def test_padding_of_the_last_batch_counts_nowhere():
    of = evaluation()
    of.add(measured([(0, [((10, 10, 30, 30), 0.9, 0)]), (-1, [((10, 10, 30, 30), 0.9, 1)])]))
    assert len(of.records()) == 1
    assert of.result()["examples"] == 1


def test_no_detections_and_no_objects_have_an_ap():
    of = evaluation()
    of.add(measured([(0, []), (1, [])]))
    assert of.result()["bbox_ap"] == 0
    none = evaluation(())
    none.add(measured([(0, []), (1, [])]))
    assert none.result()["bbox_ap"] == -1
    assert ap_metrics(None)["bbox_ap50"] == -1


def test_the_objects_of_a_source_as_detections_have_an_ap_of_100():
    source = DigitComposites("val")
    of = AveragePrecision(source, None, Options())
    for index in range(len(source)):
        instances = source[index][1]
        found = [(box, 0.5, label) for box, label in zip(instances.boxes, instances.labels, strict=True)]
        of.add(measured([(index, found)], slots=6))
    assert of.result()["bbox_ap"] == pytest.approx(100)
