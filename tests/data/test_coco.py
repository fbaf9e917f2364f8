"""`CocoFolder` reads boxes and masks as mmdetection does, and names or counts everything that is wrong."""

import json
import pickle

import numpy as np
import pytest

from focalnet_jax.data.coco.folder import CocoFolder
from focalnet_jax.data.coco.problems import CHANGED, LEFT_OUT, UNUSED
from focalnet_jax.data.decode import decode
from focalnet_jax.data.segments import bitmap, encode_bitmap
from focalnet_jax.errors import UserError
from tests.data.coco import CATEGORIES, annotation, coco_content, write_coco

NAMES = tuple(category["name"] for category in CATEGORIES)


def opened(folder, content=None, split="train", **options):
    """Writes a file in the folder unless it is there, and opens it."""
    if content is not None:
        write_coco(folder, **{split: content})
    return CocoFolder(str(folder), split, **options)


def one_image(*annotations, size=(40, 60)):
    """Returns the content of a file with an image of id 5 and these annotations."""
    image = {"id": 5, "file_name": "five.jpg", "height": size[0], "width": size[1]}
    return {"images": [image], "annotations": list(annotations), "categories": [dict(entry) for entry in CATEGORIES]}


def test_examples_have_the_boxes_labels_and_masks_of_the_file(tmp_path):
    content = coco_content()
    source = opened(tmp_path, content)
    assert source.class_names == NAMES == ("zebra", "apple", "kite")  # in the order of the file
    assert source.category_ids == (3, 1, 90)
    assert source.image_ids.tolist() == [image["id"] for image in content["images"]]
    assert source.sizes.tolist() == [[image["height"], image["width"]] for image in content["images"]]
    assert (len(source), source.has_masks, source.note) == (6, True, "")
    for index, image in enumerate(content["images"]):
        picture, found = source[index]
        assert decode(picture).shape[:2] == tuple(source.sizes[index])
        assert source.name(index) == str(picture) == str(tmp_path / "train2017" / image["file_name"])
        expected = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
        assert found.ids.tolist() == [entry["id"] for entry in expected]  # in the order of the file
        assert found.index == index
        assert [source.category_ids[label] for label in found.labels] == [entry["category_id"] for entry in expected]
        corners = np.array([entry["bbox"] for entry in expected]).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        np.testing.assert_array_equal(found.boxes, corners.astype(np.float32))
        assert found.areas.tolist() == np.array([entry["area"] for entry in expected], np.float32).tolist()
        assert found.crowd.tolist() == [bool(entry["iscrowd"]) for entry in expected]
        for segment, entry in zip(found.segments, expected, strict=True):
            size = tuple(source.sizes[index].tolist())
            np.testing.assert_array_equal(bitmap(segment, size), bitmap(entry["segmentation"], size))
        types = (found.boxes.dtype, found.labels.dtype, found.areas.dtype, found.crowd.dtype, found.ids.dtype)
        assert types == (np.float32, np.int32, np.float32, bool, np.int64)


def test_training_leaves_out_small_images_and_those_without_annotations_but_not_crowds_only(tmp_path):
    content = coco_content(images=6, sizes=((60, 80), (64, 48), (50, 50), (31, 100)))
    for entry in content["annotations"]:
        if entry["image_id"] == content["images"][2]["id"]:
            entry["iscrowd"] = 1
    source = opened(tmp_path, content, training=True)
    assert source.image_ids.tolist() == [content["images"][number]["id"] for number in (0, 1, 2, 4)]
    assert source[2][1].crowd.all()
    assert "left out: 1 images without annotations (such as 000005.jpg)" in source.note
    assert "left out: 1 images with a side below 32 pixels (such as 000003.jpg)" in source.note
    assert len(opened(tmp_path, training=True, min_side=0)) == 5
    assert len(opened(tmp_path)) == 6
    with pytest.raises(
        UserError, match=r"none of the 6 images can be used for training; 1 have no annotations, 5 have"
    ):
        opened(tmp_path, training=True, min_side=1000)


def test_the_ground_truth_is_the_file(tmp_path):
    content = coco_content()
    content["annotations"][0] |= {"ignore": 1}
    content["annotations"][1] |= {"bbox": [1.0, 2.0, 0.0, 5.0], "area": 0.0}  # COCO's tools count it as an object
    source = opened(tmp_path, content)
    truth = source.ground_truth()
    assert truth["images"] == content["images"]
    assert truth["categories"] == CATEGORIES
    assert sorted(truth["annotations"], key=lambda e: e["id"]) == sorted(content["annotations"], key=lambda e: e["id"])
    json.dumps(truth)
    for number in (0, -1):  # 0 means no match in pycocotools, and hotcoco refuses -1
        content["annotations"][3]["id"] = number
        ids = [entry["id"] for entry in opened(tmp_path, content).ground_truth()["annotations"]]
        assert sorted(ids) == list(range(1, len(content["annotations"]) + 1))


def test_without_masks_the_boxes_are_the_same(tmp_path):
    source, without = opened(tmp_path, coco_content()), opened(tmp_path, masks=False)
    assert not without.has_masks
    for index in range(len(source)):
        np.testing.assert_array_equal(source[index][1].boxes, without[index][1].boxes)
        assert without[index][1].segments is None
    assert all("segmentation" not in entry for entry in without.ground_truth()["annotations"])
    content = coco_content()
    for entry in content["annotations"]:
        entry["segmentation"] = []
    assert not opened(tmp_path / "empty", content).has_masks


def test_the_source_can_be_sent_to_other_processes(tmp_path):
    source = opened(tmp_path, coco_content())
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[1][1].boxes, source[1][1].boxes)
    assert copy.fingerprint == source.fingerprint


def test_the_fingerprint_differs_between_data(tmp_path):
    contents = [coco_content(), coco_content(seed=1), coco_content(), coco_content()]
    contents[2]["categories"][0]["name"] = "horse"
    contents[3]["annotations"][0]["bbox"][0] += 0.01
    prints = [opened(tmp_path / str(number), content).fingerprint for number, content in enumerate(contents)]
    prints.append(opened(tmp_path / "0", training=True).fingerprint)
    assert len(set(prints)) == 5
    assert opened(tmp_path / "copy", coco_content()).fingerprint == prints[0]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_average_precision_equals_that_of_pycocotools_on_unusual_annotations(tmp_path, kind, capsys):
    from hotcoco import COCO, COCOeval

    content = coco_content(9)
    for place, change in enumerate(
        [
            {"bbox": [1.0, 2.0, 0.0, 5.0]},
            {"bbox": [9.0, 9.0, -4.0, 5.0]},
            {"area": 0},
            {"ignore": 1},
            {"iscrowd": 1},
            {"bbox": [500.0, 2.0, 5.0, 5.0]},
            {"segmentation": []},
            {"segmentation": [[1, 2, 3]]},
            {"area": None},
            {"category_id": 7},
        ]
    ):
        content["annotations"][place] |= change
    source = opened(tmp_path, content)
    truth, rng = source.ground_truth(), np.random.default_rng(0)
    found = []
    for entry in truth["annotations"]:
        height, width = source.sizes[source.image_ids.tolist().index(entry["image_id"])].tolist()
        for _ in range(2):
            pixels = np.roll(bitmap(entry["segmentation"], (height, width)), rng.integers(-2, 3, 2), (0, 1))
            box = (np.array(entry["bbox"]) + rng.normal(0, 1, 4)).tolist()
            found.append(
                {key: entry[key] for key in ("image_id", "category_id")}
                | {"score": float(rng.random()), "bbox": box}
                | ({"segmentation": encode_bitmap(pixels)} if kind == "segm" else {})
            )
    ours = COCO(json.loads(json.dumps(truth)))
    evaluation = COCOeval(ours, ours.load_res(json.loads(json.dumps(found))), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])
    assert 0 < precision[precision > -1].mean() < 1
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    theirs = coco.COCO()
    theirs.dataset = json.loads(json.dumps(truth)) | {"info": {}}
    theirs.createIndex()
    oracle = cocoeval.COCOeval(theirs, theirs.loadRes(json.loads(json.dumps(found))), kind)
    oracle.evaluate()
    oracle.accumulate()
    np.testing.assert_allclose(precision, oracle.eval["precision"], rtol=0, atol=1e-12)  # sums in another order


GOOD = annotation(1, 5, 3, [5.0, 5.0, 20.0, 10.0])
POLYGON = GOOD["segmentation"][0]


@pytest.mark.fault(58)
@pytest.mark.parametrize(
    ("change", "done", "reason"),
    [
        ({"image_id": 6}, LEFT_OUT, "unknown image_id"),
        ({"category_id": 7}, LEFT_OUT, "unknown category_id 7"),
        ({"bbox": [1.0, float("nan"), 5.0, 5.0]}, LEFT_OUT, "bbox is not four finite numbers"),
        ({"bbox": [1.0, 2.0, float("inf"), 5.0]}, LEFT_OUT, "bbox is not four finite numbers"),
        ({"bbox": [1.0, 2.0, 5.0]}, LEFT_OUT, "bbox is not four finite numbers"),
        ({"bbox": ["a", 2.0, 5.0, 5.0]}, LEFT_OUT, "bbox is not four finite numbers"),
        ({"bbox": None}, LEFT_OUT, "bbox is not four finite numbers"),
        ({"bbox": [1.0, 2.0, 0.0, 5.0]}, UNUSED, "width or height is not positive"),
        ({"bbox": [9.0, 9.0, -4.0, 5.0]}, UNUSED, "width or height is not positive"),
        ({"area": 0}, UNUSED, "area is not positive"),
        ({"bbox": [1.0, 2.0, 0.9, 5.0]}, UNUSED, "narrower or lower than 1 pixel"),
        ({"bbox": [60.0, 2.0, 5.0, 5.0]}, UNUSED, "outside of the image"),
        ({"bbox": [-9.0, 2.0, 5.0, 5.0]}, UNUSED, "outside of the image"),
        ({"ignore": 1}, UNUSED, "marked ignore"),
        ({"segmentation": [[1, 1, 5, 5]]}, UNUSED, "a polygon of fewer than 3 points"),
        ({"segmentation": [[*POLYGON, 3.0]]}, UNUSED, "a polygon of an odd number of coordinates"),
        ({"segmentation": [[*POLYGON[:-1], float("nan")]]}, UNUSED, "a polygon with coordinates that are not finite"),
        ({"segmentation": [["a"] * 6]}, UNUSED, "a polygon that is not a list of numbers"),
        ({"segmentation": []}, UNUSED, "no segmentation"),
        ({"segmentation": 7}, UNUSED, "neither polygons nor a run-length encoding"),
        ({"segmentation": {"size": [60, 40], "counts": [2400]}}, UNUSED, "a run-length encoding of another size"),
        ({"segmentation": {"size": [40, 60], "counts": [2401]}}, UNUSED, "a damaged run-length encoding"),
        ({"segmentation": {"size": [40, 60]}}, UNUSED, "a run-length encoding without counts or size"),
        ({"bbox": [50.0, 5.0, 20.0, 10.0]}, CHANGED, "box limited to the image"),
        ({"segmentation": [[1, 1, 5, 5], POLYGON]}, CHANGED, "removed a polygon of fewer than 3 points"),
        ({"area": None}, CHANGED, "no finite area: taken from the box"),
        ({"area": float("nan")}, CHANGED, "no finite area: taken from the box"),
    ],
)
def test_wrong_annotations_are_counted_and_named(tmp_path, change, done, reason):
    wrong = annotation(2, 5, 1, [5.0, 5.0, 20.0, 10.0]) | change
    source = opened(tmp_path, one_image(GOOD, wrong))
    assert list(source.problems) == [(done, reason, [2])]
    assert f"{done}: 1 annotations ({reason}; such as 2)" in source.note
    found = source[0][1]
    assert found.ids.tolist() == ([1, 2] if done == CHANGED else [1])
    assert np.isfinite(found.boxes).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [60, 40, 60, 40]).all()
    assert [bitmap(segment, (40, 60)).any() for segment in found.segments] == [True] * len(found)
    truth = [entry["id"] for entry in source.ground_truth()["annotations"]]
    assert truth == ([1] if done == LEFT_OUT else [1, 2])


@pytest.mark.fault(59)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 1}, "1 ids occur for several annotations, such as 1: number the annotations uniquely"),
        ({"id": None}, "annotation number 1 has no id; expected an integer"),
        ({"id": "x"}, "annotation number 1 has the id 'x'; expected an integer"),
        ({"image_id": "five"}, "annotation number 1 has the image_id 'five'; expected an integer"),
        ({"id": 2**70}, "has a id beyond 64 bits"),
    ],
)
def test_annotations_without_unique_ids_are_refused(tmp_path, change, message):
    with pytest.raises(UserError) as caught:
        opened(tmp_path, one_image(GOOD, annotation(2, 5, 1, [5.0, 5.0, 20.0, 10.0]) | change))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.fault(59)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"].append(dict(c["images"][0])), "ids of images occur several times: 5; make them unique"),
        (lambda c: c["images"][0].pop("id"), "image number 0 has no id"),
        (lambda c: c["images"][0].update(id=-1), "image number 0 has the id -1; expected an integer of at least 0"),
        (lambda c: c["images"][0].pop("file_name"), "image 5 has no file_name"),
        (lambda c: c["images"][0].pop("height"), "image 5 (five.jpg) has the height None and the width 60"),
        (lambda c: c["images"][0].update(width=0), "has the height 40 and the width 0; expected positive integers"),
        (lambda c: c["images"].clear(), "has no images"),
        (lambda c: c["categories"].clear(), "has no classes"),
        (lambda c: c["categories"].append({"id": 3, "name": "x"}), "ids of categories occur several times: 3"),
        (lambda c: c["categories"].append({"id": 4, "name": "kite"}), "names of categories occur several times: kite"),
        (lambda c: c["categories"].append({"id": 4}), "category 4 has no name"),
        (
            lambda c: c.pop("annotations"),
            "has no list \"annotations\"; it contains an object with 'images', 'categories'",
        ),
    ],
)
def test_inconsistent_files_are_refused_in_one_line(tmp_path, change, message):
    write_coco(tmp_path, train=one_image(GOOD))
    content = one_image(GOOD)
    change(content)
    path = tmp_path / "annotations/instances_train2017.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.fault(59)
def test_a_file_that_is_cut_short_is_refused_at_every_length(tmp_path):
    write_coco(tmp_path, train=one_image(GOOD))
    path = tmp_path / "annotations/instances_train2017.json"
    text = path.read_text()
    for length in range(1, len(text) - 1):
        path.write_text(text[:length])
        with pytest.raises(UserError, match="is cut short: copy it again"):
            opened(tmp_path)
    for content, message in ((b"", "is not JSON"), (b"\xff\xfe{", "is not JSON"), (b"[1]", 'no list "images"')):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            opened(tmp_path)
    path.write_text("[" * 100_000)
    with pytest.raises(UserError):
        opened(tmp_path)


@pytest.mark.fault(59)
def test_missing_files_and_folders_are_named(tmp_path):
    write_coco(tmp_path, train=coco_content())
    with pytest.raises(UserError, match=r"has no annotations of the split 'val'; its JSON files are annotations/inst"):
        opened(tmp_path, split="val")
    (tmp_path / "train2017/000003.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 6 images of .*2017.json are not in .*/train2017, such as 000003.jpg"):
        opened(tmp_path)
    (tmp_path / "train2017").rename(tmp_path / "pictures")
    with pytest.raises(UserError, match=r"the image 000000.jpg of .* is not in .*data.images"):
        opened(tmp_path)
    for path, message in ((tmp_path / "no", "does not exist"), (None, "needs data.path")):
        with pytest.raises(UserError, match=message):
            CocoFolder(path and str(path), "train")
    file = tmp_path / "annotations/instances_train2017.json"
    with pytest.raises(UserError, match=r"needs data.images"):
        CocoFolder(None, "train", str(file))
    with pytest.raises(UserError, match=r"cannot read .*nothing.json: No such file"):
        CocoFolder(None, "train", str(tmp_path / "nothing.json"), str(tmp_path))


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("annotations/instances_val.json", "val"),
        ("annotations/instances_val2017.json", "images/val2017"),
        ("annotations/val.json", "images/val"),
        ("instances_val.json", "images"),
        ("val/_annotations.coco.json", "val"),
        ("annotations/instances_val.json", "."),
    ],
)
def test_layouts_are_found(tmp_path, file, images):
    write_coco(tmp_path / "from", val=coco_content())
    (tmp_path / "to" / file).parent.mkdir(parents=True)
    (tmp_path / "to" / images).mkdir(parents=True, exist_ok=True)
    (tmp_path / "from/annotations/instances_val2017.json").rename(tmp_path / "to" / file)
    for path in (tmp_path / "from/val2017").iterdir():
        path.rename(tmp_path / "to" / images / path.name)
    source = opened(tmp_path / "to", split="val")
    assert len(source) == 6
    explicit = CocoFolder(None, "val", str(tmp_path / "to" / file), str(tmp_path / "to" / images))
    assert explicit.fingerprint == source.fingerprint


def test_classes_without_objects_are_named(tmp_path):
    assert "2 classes have no objects: apple, kite" in opened(tmp_path, one_image(GOOD), training=True).note
