"""Data sets that tests of the preparation share."""

import pytest

from tests.data.pictures import SYNSETS, write_pictures, write_planted
from tests.data.preparing import SMALL, prepare


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    write_pictures(root)
    write_planted(root / "train" / SYNSETS[0], SYNSETS[0])
    return root


@pytest.fixture(scope="module")
def from_folders(pictures, tmp_path_factory):
    """The data set made of the folders."""
    out = tmp_path_factory.mktemp("out")
    done = prepare("imagefolder", "--source", pictures, "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    return out / "images" / "1.0.0"
