"""`data.prepare coco` keeps images and annotations, so that records and folder give the same examples."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focalnet_jax.data.coco.folder import CocoFolder
from focalnet_jax.data.coco.problems import CHANGED, LEFT_OUT, UNUSED
from focalnet_jax.data.decode import UnreadableImageError, decode
from focalnet_jax.data.prepare import objects
from focalnet_jax.data.prepare.__main__ import main
from focalnet_jax.data.segments import bitmap
from focalnet_jax.data.tfds_source import TfdsSource
from focalnet_jax.errors import UserError
from focalnet_jax.tasks.detection.records import CocoRecords
from tests.data.coco import annotation, coco_content, write_coco
from tests.data.pictures import encoded
from tests.data.preparing import in_process, refused  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")


def prepared(out, *sources, **flags):
    """Prepares in this process, and returns the folder of the data set and its card."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    assert main(["coco", "--source", *map(str, sources), "--out", str(out), "--processes=1", *options]) == 0
    return out / "coco/1.0.0", json.loads((out / "coco/1.0.0/card.json").read_text())


def arguments(out, *sources):
    return ["coco", "--source", *sources, "--out", out, "--processes", "1"]


def zipped(folder, name, inside):
    """Writes a zip archive of a folder like COCO's."""
    path = folder.parent / name
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((folder / inside).rglob("*")):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def by_id(source):
    """Returns the examples by the id of the image: digest of the picture's bytes, and the objects as plain values."""
    found = {}
    for index in range(len(source)):
        picture, objects_ = source[index]
        content = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
        size = tuple(source.sizes[index].tolist())
        masks = objects_.segments and [bitmap(segment, size).tobytes() for segment in objects_.segments]
        arrays = (objects_.boxes, objects_.labels, objects_.areas, objects_.crowd, objects_.ids)
        types = [array.dtype for array in arrays]
        values = [array.tolist() for array in arrays]
        assert objects_.index == index
        found[source.image_ids[index]] = (hashlib.sha256(content).hexdigest(), size, types, values, masks)
    return found


@pytest.mark.parametrize("options", [{}, {"training": True}, {"masks": False}, {"training": True, "min_side": 50}])
def test_records_give_the_examples_of_the_folder(tmp_path, options):
    content = coco_content(9, sizes=((60, 80), (64, 48), (50, 50), (31, 100)))
    content["annotations"][0] |= {"ignore": 1}
    content["annotations"][1] |= {"area": None}
    content["annotations"][2] |= {"bbox": [1.0, 2.0, 0.5, 5.0]}
    content["annotations"][3] |= {"segmentation": [[1, 2, 3, 4], content["annotations"][3]["segmentation"][0]]}
    content["annotations"][4] |= {"segmentation": []}
    content["annotations"][5] |= {"category_id": 50}
    content["annotations"][6] |= {"bbox": [float("nan")] * 4}
    source = write_coco(tmp_path / "from", train=content, val=coco_content(5, seed=1))
    folder, _ = prepared(tmp_path / "out", source)
    for split in ("train", "val"):
        records, direct = CocoRecords(str(folder), split, **options), CocoFolder(str(source), split, **options)
        assert by_id(records) == by_id(direct)
        for name in ("class_names", "category_ids", "has_masks"):
            assert getattr(records, name) == getattr(direct, name)
        assert set(map(tuple, records.sizes)) == set(map(tuple, direct.sizes))
        truths = []
        for truth in (records.ground_truth(), direct.ground_truth()):
            ordered = {part: sorted(truth[part], key=lambda entry: entry["id"]) for part in ("images", "annotations")}
            truths.append(json.dumps(ordered) + json.dumps(truth["categories"]))
        assert truths[0] == truths[1]


def test_zips_are_read_in_place_with_the_same_result(tmp_path):
    source = write_coco(tmp_path / "from", train=coco_content(9), val=coco_content(5, seed=1))
    _, card = prepared(tmp_path / "folder", source)
    archives = [zipped(source, f"{name}.zip", name) for name in ("train2017", "val2017", "annotations")]
    _, zips = prepared(tmp_path / "zips", *archives)
    assert zips["fingerprint"] == card["fingerprint"]
    assert zips["categories"] == [
        {"id": 3, "name": "zebra"},
        {"id": 1, "name": "apple"},
        {"id": 90, "name": "kite"},
    ]
    images = [tmp_path / "train2017.zip", tmp_path / "val2017.zip"]
    separate = ["--annotations", source / "annotations/instances_train2017.json"]
    main(list(map(str, [*arguments(tmp_path / "one", *images), *separate])))
    one = json.loads((tmp_path / "one/coco/1.0.0/card.json").read_text())
    assert one["splits"].keys() == {"train"}
    assert one["splits"]["train"] == card["splits"]["train"]


def test_a_split_whose_images_are_not_given_is_left_out_with_a_line(tmp_path, capsys):
    source = write_coco(tmp_path / "from", train=coco_content(9), val=coco_content(5, seed=1))
    shutil.rmtree(source / "train2017")
    for path in (source / "val2017").iterdir():
        path.rename(path.with_name(f"v{path.name}"))
    content = coco_content(5, seed=1)
    for entry in content["images"]:
        entry["file_name"] = f"v{entry['file_name']}"
    (source / "annotations/instances_val2017.json").write_text(json.dumps(content))
    _, card = prepared(tmp_path / "out", source)
    assert card["splits"].keys() == {"val"}
    assert "instances_train2017.json: left out, because its images are not given" in capsys.readouterr().out


@pytest.mark.fault(58)
def test_problems_are_counted_on_the_card_and_listed(tmp_path, capsys):
    content = coco_content(9)
    size = {entry["id"]: (entry["height"], entry["width"]) for entry in content["images"]}
    first = content["images"][0]["id"]
    wrong = {
        901: ({"category_id": 50}, LEFT_OUT, "unknown category_id 50"),
        902: ({"image_id": 5}, LEFT_OUT, "unknown image_id"),
        903: ({"area": 0}, UNUSED, "area is not positive"),
        904: ({"bbox": [70.0, 5.0, 20.0, 10.0]}, CHANGED, "box limited to the image"),
    }
    for number, (change, _, _) in wrong.items():
        content["annotations"].append(annotation(number, first, 3, [5.0, 5.0, 20.0, 10.0]) | change)
    source = write_coco(tmp_path / "from", train=content)
    (source / "train2017/000001.jpg").unlink()
    (source / "train2017/000002.jpg").write_bytes((source / "train2017/000002.jpg").read_bytes()[:400])
    height, width = size[content["images"][3]["id"]]
    turned = encoded(Image.fromarray(np.zeros((width, height, 3), np.uint8)))
    (source / "train2017/000003.jpg").write_bytes(turned)
    grey = encoded(Image.fromarray(np.zeros(size[content["images"][4]["id"]], np.uint8)))
    (source / "train2017/000004.jpg").write_bytes(grey)
    folder, card = prepared(tmp_path / "out", source)
    assert card["problems"]["train"] == {f"{done}: {reason}": 1 for _, done, reason in wrong.values()}
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    listed = {row["annotation"]: (row["status"], row["reason"]) for row in rows if "annotation" in row}
    assert listed == {number: (done, reason) for number, (_, done, reason) in wrong.items()}
    rejected = {row["file"]: row["reason"] for row in rows if row["status"] == "rejected"}
    assert rejected.keys() == {"000001.jpg", "000002.jpg", "000003.jpg"}
    assert rejected["000001.jpg"] == "the image is missing"
    assert "cannot be decoded" in rejected["000002.jpg"]
    assert rejected["000003.jpg"] == f"it has {height}x{width} pixels, its annotations are for {width}x{height}"
    assert (card["rejected"], card["splits"]["train"]["examples"]) == (3, 6)
    out = capsys.readouterr().out
    for number, (_, done, reason) in wrong.items():
        assert f"train: {done}: 1 annotations ({reason}; such as {number})" in out
    source = CocoRecords(str(folder), "train")
    assert f"{UNUSED}: area is not positive: 1 annotations" in source.note
    stored = {source.name(index).partition(" (")[0]: source[index][0] for index in range(len(source))}
    assert stored["000004.jpg"] == grey  # a grey JPEG keeps its bytes
    assert decode(grey).shape == (*size[content["images"][4]["id"]], 3)


def test_slices_and_shards_have_the_sizes_and_ids_of_their_images(tmp_path):
    source = write_coco(tmp_path / "from", train=coco_content(12))
    folder, card = prepared(tmp_path / "out", source, shard_mb=0.005)
    assert card["splits"]["train"]["shards"] > 3
    whole = CocoRecords(str(folder), "train")
    for cut in range(1, 12):
        first, rest = (CocoRecords(str(folder), f"train[{part}]") for part in (f":{cut}", f"{cut}:"))
        assert [*first.image_ids, *rest.image_ids] == whole.image_ids.tolist() != sorted(whole.image_ids)
        assert by_id(first) | by_id(rest) == by_id(whole)
        for part in (first, rest):
            for index in range(len(part)):
                assert decode(part[index][0]).shape[:2] == tuple(part.sizes[index])
        assert len({source.fingerprint for source in (whole, first, rest)}) == 3


def test_a_stopped_preparation_is_resumed(tmp_path, capsys, monkeypatch):
    source = write_coco(tmp_path / "from", train=coco_content(12))
    _, whole = prepared(tmp_path / "whole", source, shard_mb=0.005)
    write, written = objects.write_objects, []

    def stopped(job, shard, reports):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard)
        return write(job, shard, reports)

    monkeypatch.setattr(objects, "write_objects", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path / "out", source, shard_mb=0.005)
    monkeypatch.setattr(objects, "write_objects", write)
    capsys.readouterr()
    folder, card = prepared(tmp_path / "out", source, shard_mb=0.005)
    assert "resuming: 2 of " in capsys.readouterr().out
    assert card == whole
    assert not (folder / ".prepare").exists()
    prepared(tmp_path / "out", source, shard_mb=0.005)
    assert "already contains this data set" in capsys.readouterr().out


@pytest.mark.fault(56)
def test_what_is_wrong_with_the_sources_is_one_line(tmp_path):
    out = tmp_path / "out"
    source = write_coco(tmp_path / "from", train=coco_content(), val=coco_content(seed=1))
    refused("there is no such file or folder", *arguments(out, tmp_path / "none.zip"))
    (tmp_path / "empty").mkdir()
    refused("contains no file instances_SPLIT.json", *arguments(out, tmp_path / "empty"))
    refused("the kind coco reads local files", *arguments(out, "hf://datasets/org/name"))
    refused("--annotations applies to coco, not to ade20k", "ade20k", *arguments(out, source)[1:], "--annotations", "x")
    archive = zipped(source, "train2017.zip", "train2017")
    cut = tmp_path / "cut.zip"
    cut.write_bytes(archive.read_bytes()[:-50])
    refused("cut.zip is truncated, damaged or not a zip archive", *arguments(out, cut, source))
    file = source / "annotations/instances_train2017.json"
    refused("are both annotations of the split train", *arguments(out, source, source))
    refused(
        "expected a name that ends with a split", *arguments(out, archive), "--annotations", _copy(file, "abc.json")
    )
    refused("none of the first images of", *arguments(out, tmp_path / "empty"), "--annotations", file)
    shutil.copytree(source / "train2017", source / "copy/train2017")
    refused("the image 000000.jpg is in several folders", *arguments(out, source))
    shutil.rmtree(source / "copy")
    content = coco_content(seed=1)
    content["categories"].reverse()
    (source / "annotations/instances_val2017.json").write_text(json.dumps(content))
    refused("has other categories than", *arguments(out, source))
    (source / "annotations/instances_val2017.json").write_text(json.dumps(content)[:-9])
    refused("instances_val2017.json is cut short", *arguments(out, source))
    assert not out.exists()


def _copy(file, name):
    return shutil.copy(file, file.parent.parent.parent / name)


def test_damaged_records_are_one_line(tmp_path):
    source = write_coco(tmp_path / "from", train=coco_content())
    folder, _ = prepared(tmp_path / "out", source)
    with pytest.raises(UserError, match=r"has no split 'test'"):
        CocoRecords(str(folder), "test")
    with pytest.raises(UserError, match=r"expected image and label"):
        TfdsSource(str(folder), "train")
    images = folder / "images_train.json"
    text = images.read_text()
    for damaged in (text[:50], "{}", "[]", text.replace('"sizes": [[', '"sizes": ['), text.replace("coco-train", "c")):
        images.write_text(damaged)
        with pytest.raises(UserError, match=r"images_train.json is missing or damaged"):
            CocoRecords(str(folder), "train")
    images.unlink()
    with pytest.raises(UserError, match=r"images_train.json is missing or damaged"):
        CocoRecords(str(folder), "train")
    images.write_text(text)
    opened = CocoRecords(str(folder), "train")
    with pytest.raises(UnreadableImageError, match="its annotations are damaged"):
        opened._annotations(b'[{"id": 1', 0)
