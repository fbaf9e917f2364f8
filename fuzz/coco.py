"""Fuzzes annotations in COCO's format: what is read must fit to its image, and can be evaluated."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import COCO, COCOeval

from focalnet_jax.data.coco.folder import CocoFolder
from focalnet_jax.data.segments import bitmap
from fuzz.mutations import Rng, mutate_bytes, mutate_json, pick
from fuzz.runner import Family, WrongAnswerError
from tests.data.coco import coco_content, write_coco

_VALUES = (
    *(None, True, 0, -1, 2**31, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "1", "\ud800", [], [[]], {}, [1, 2, 3, 4], [[1, 2, 3, 4, 5, 6]], [[1e300] * 6], [["1"] * 6]),
    *({"size": [60, 80], "counts": "abc"}, {"size": [60, 80], "counts": [4800]}, {"size": None, "counts": [1]}),
)

_USUAL = ("bbox", "bbox", "segmentation", "segmentation", "area", "iscrowd", "ignore")


def prepare(folder: Path) -> tuple[dict[str, Any], Path]:
    """Writes a data set of four images, and returns the content of its file and the folder of its images."""
    content = coco_content(4)
    write_coco(folder / "coco", train=content)
    return content, folder / "coco/train2017"


def case(base: tuple[dict[str, Any], Path], rng: Rng, folder: Path) -> None:
    """Reads a damaged file, and checks the objects that are not left out."""
    content, images = copy.deepcopy(base[0]), base[1]
    for _ in range(pick(rng, (1, 2, 5))):
        entry = pick(rng, content["annotations"])
        entry[pick(rng, _USUAL)] = copy.deepcopy(pick(rng, _VALUES))
    if rng.random() < 0.3:
        entry = pick(rng, content[pick(rng, ("annotations", "images", "categories"))])
        entry[pick(rng, entry)] = copy.deepcopy(pick(rng, _VALUES))
    text = json.dumps(mutate_json(content, rng) if rng.random() < 0.15 else content).encode()
    file = folder / "instances_train.json"
    file.write_bytes(mutate_bytes(text, rng) if rng.random() < 0.1 else text)
    source = CocoFolder(None, "train", str(file), str(images), training=rng.random() < 0.5, masks=rng.random() < 0.7)
    for index in range(len(source)):
        _, found = source[index]
        height, width = source.sizes[index].tolist()
        if not ((found.boxes >= 0) & (found.boxes <= [width, height, width, height])).all():
            raise WrongAnswerError(f"{found.boxes} in {width}x{height}")
        if len(found) and not 0 <= found.labels.min() <= found.labels.max() < len(source.class_names):
            raise WrongAnswerError(f"labels {found.labels}")
        for segment in found.segments or ():
            if height * width <= 10**6 and bitmap(segment, (height, width)).shape != (height, width):
                raise WrongAnswerError(f"a bitmap of another size than {height}x{width}")
    _evaluate(source)


def _evaluate(source: CocoFolder) -> None:
    """Evaluates a detection on the annotations of a source."""
    truth = source.ground_truth()
    if not truth["annotations"]:
        return
    found = {"image_id": int(source.image_ids[0]), "category_id": source.category_ids[0], "score": 0.5}
    ground_truth = COCO(truth)
    evaluation = COCOeval(ground_truth, ground_truth.load_res([found | {"bbox": [0, 0, 5, 5]}]), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    if not np.isfinite(np.asarray(evaluation.eval["precision"])).all():
        raise WrongAnswerError("precision is not finite")


FAMILY = Family("coco", 2000, prepare, case)
