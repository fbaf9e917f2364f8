"""An evaluation of two processes counts every image once, and has the metrics of one process."""

import json

import numpy as np
import pytest
from PIL import Image

from focalnet_jax.convert.write_upernet import write_upernet
from tests.commands import run
from tests.convert.random_weights import upernet_of

IMAGES = 7  # odd, so that the processes have different numbers of images, and batches are not full
FLAGS = [
    "--config=configs/upernet_ade20k.py:smoke",
    "--config.model.embed_dim=8",
    "--config.model.depths=(1,1,1,1)",
    "--config.model.num_classes=3",
    "--config.head.channels=4",
    "--config.head.auxiliary_channels=4",
    "--config.head.pool_scales=(1,2)",
    "--config.data.source=folder",
    "--config.batch_size=4",
]


@pytest.fixture
def flags(tmp_path):
    """Flags of an evaluation of random weights on images of two shapes with different shares of three classes."""
    draw = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / kind / "val").mkdir(parents=True)
    for index in range(IMAGES):
        size = (48, 40) if index % 3 else (40, 48)
        mask = draw.choice(3, size, p=np.roll([0.7, 0.2, 0.1], index)).astype(np.uint8)
        Image.fromarray(draw.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / "images/val" / f"{index}.png")
        Image.fromarray(mask).save(tmp_path / "masks/val" / f"{index}.png")
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    write_upernet(upernet_of(focal_levels=2), tmp_path / "weights", format="orbax")
    return [*FLAGS, f"--config.data.path={tmp_path}", "--checkpoint", tmp_path / "weights"]


def test_two_processes_count_every_image_once(flags):
    alone = run("eval.py", *flags)
    assert alone.returncode == 0, alone.stderr
    launched = ["--processes", 2, "--devices-per-process", 1, "--", "eval.py"]
    together = run("-m", "focalnet_jax.launch", *launched, *flags)
    assert together.returncode == 0, together.stderr
    expected, found = (json.loads(done.stdout.splitlines()[-1]) for done in (alone, together))
    assert found["examples"] == expected["examples"] == IMAGES
    assert found.keys() == expected.keys()
    # Without any one of the images, mIoU differs by at least 0.59 and aAcc by at least 1.8. Rounding may change the
    # class of a pixel, which is 0.0074 percent of all pixels.
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=0.02), name
