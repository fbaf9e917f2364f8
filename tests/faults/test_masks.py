"""Masks that cannot be used are named and counted while a run trains, and end its evaluation."""

import numpy as np
import pytest
from PIL import Image

from tests.commands import assert_one_line_mistake, metrics, run
from tests.data.masks import grey_png, write_pairs

FLAGS = [
    "--config=configs/upernet_ade20k.py:smoke",
    "--config.data.source=folder",
    "--config.model.num_classes=3",
    "--config.model.depths=(1,1)",
    "--config.head.pool_scales=(1,)",
    "--config.data.image_size=32",
    "--config.batch_size=8",
    "--config.total_steps=2",
]


@pytest.mark.fault(53)
def test_a_run_trains_over_masks_that_cannot_be_used_and_does_not_evaluate_on_them(tmp_path):
    data = write_pairs(tmp_path / "data", count=16)
    write_pairs(data, "val", count=4)
    (data / "classes.txt").write_text("a\nb\nc\n")
    masks, broken = data / "masks" / "train", {}
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(masks / "0.png", "JPEG")
    broken["0.jpg"] = "a format that may change labels"
    (masks / "1.png").write_bytes(grey_png(np.zeros((12, 15))))
    broken["1.jpg"] = "15x12 pixels, the image 16x12"
    (masks / "2.png").write_bytes(grey_png(np.full((12, 16), 3)))
    broken["2.jpg"] = "label 3 (row 0, column 0"
    (masks / "3.png").write_bytes((masks / "3.png").read_bytes()[:60])
    broken["3.jpg"] = "cannot be decoded"
    flags = [*FLAGS, f"--config.data.path={data}"]
    done = run("train.py", *flags, "--config.data.max_unreadable=0.5", "--workdir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    for name, reason in broken.items():
        [line] = [line for line in done.stderr.splitlines() if f"{name} (" in line]
        assert reason in line
    assert max(row.get("data/substituted", 0) for row in metrics(tmp_path / "run")) == len(broken)
    too_many = run("train.py", *flags, "--workdir", tmp_path / "strict")
    assert_one_line_mistake(too_many, "could not be read, such as ")
    (data / "masks" / "val" / "2.png").write_bytes(b"nothing")
    wrong = run("train.py", *flags, "--config.data.max_unreadable=0.5", "--workdir", tmp_path / "other")
    assert wrong.returncode == 2
    assert "2.jpg" in wrong.stderr.splitlines()[-1]
