"""The trees of deepforest's pictures: tiles with boxes, split by picture."""

from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest

from focalnet_jax.errors import UserError
from focalnet_jax.tasks.detection import trees
from focalnet_jax.tasks.detection.trees import PICTURES, Trees, picture

try:
    distribution("deepforest")
except PackageNotFoundError:
    pytest.skip("needs the files of deepforest", allow_module_level=True)


def test_the_splits_have_all_boxes_of_different_pictures():
    assert not {file for file, _ in PICTURES["train"]} & {file for file, _ in PICTURES["val"]}
    for split, tiles, trees_, whole in (("train", 98, 672, 707), ("val", 20, 279, 289)):
        source = Trees(split)
        boxes = [picture(*files)[1] for files in PICTURES[split]]
        assert sum(map(len, boxes)) == trees_
        found = [source[index][1] for index in range(len(source))]
        assert len(source) == tiles
        assert sum((~each.crowd).sum() for each in found) == whole  # those on an edge count twice if cut in the middle
        assert sum(map(len, found)) > whole
        # Each pixel of a box is in one tile; parts narrower than a pixel are left out.
        area = sum(each.areas.sum() for each in found)
        np.testing.assert_allclose(area, sum(np.prod(b[:, 2:] - b[:, :2], axis=1).sum() for b in boxes), rtol=1e-3)


def test_a_tile_shows_its_part_of_the_picture():
    source = Trees("val")
    pixels, boxes = picture(*PICTURES["val"][0])
    assert pixels.shape == (1035, 1249, 3)
    image, found = source[7]
    assert source.name(7).endswith("from row 259, column 500")
    np.testing.assert_array_equal(image, pixels[259 : 259 + image.shape[0], 500 : 500 + image.shape[1]])
    assert image.shape[:2] == tuple(source.sizes[7])
    inside = {tuple(box - [500, 259, 500, 259]) for box in boxes}
    complete = [tuple(box) for box in found.boxes if tuple(box) in inside]
    assert len(complete) >= 0.5 * len(found) > 3
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [image.shape[1], image.shape[0]] * 2).all()


def test_the_ground_truth_has_unique_ids_and_crowds():
    source = Trees("val")
    truth = source.ground_truth()
    ids = [entry["id"] for entry in truth["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    assert sum(entry["iscrowd"] for entry in truth["annotations"]) == len(ids) - 289
    assert truth["categories"] == [{"id": 1, "name": "tree"}]
    assert source.fingerprint == Trees("val").fingerprint
    assert len({Trees("train").fingerprint, source.fingerprint, Trees("val", 400).fingerprint}) == 3


def test_an_unknown_split_and_a_damaged_package_are_one_line(monkeypatch):
    with pytest.raises(UserError, match=r"has no split 'test'; expected train or val"):
        Trees("test")
    for content in (b"", b"<a><object><bndbox/></object></a>"):
        trees._load.cache_clear()
        monkeypatch.setattr(trees, "package_file", lambda *names, content=content: content)
        with pytest.raises(UserError, match=r"the package deepforest is damaged .*: pip install --force-reinstall"):
            Trees("val")
    monkeypatch.undo()
    trees._load.cache_clear()
