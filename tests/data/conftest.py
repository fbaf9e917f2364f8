"""Data sets that several tests of `data.prepare` use."""

import pytest

from tests.data import layouts
from tests.data.pictures import SYNSETS, write_pictures, write_planted
from tests.data.preparing import SMALL, contents, prepare, prepared


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    write_pictures(root)
    write_planted(root / "train" / SYNSETS[0], SYNSETS[0])
    return root


@pytest.fixture(scope="module")
def from_folders(pictures, tmp_path_factory):
    """The data set prepared from class folders."""
    out = tmp_path_factory.mktemp("out")
    done = prepare("imagefolder", "--source", pictures, "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    return out / "images" / "1.0.0"


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The card of a small ImageNet-1K, prepared from the original tars."""
    folder = tmp_path_factory.mktemp("expected")
    card, _ = prepared(folder / "out", "imagenet1k", "--source", layouts.kaggle_tars(folder / "tars"))
    train, val = (contents(folder / "out" / "imagenet2012" / "1.0.0", split) for split in ("train", "val"))
    assert train[1] == dict(zip(layouts.SYNSETS, (6, 4, 4), strict=True))
    assert val[1] == dict.fromkeys(layouts.SYNSETS, 2)
    return card
