"""Two processes train a detector as one does, and an evaluation of two processes counts every image once."""

import json

import numpy as np
import pytest

from tests.commands import losses, run
from tests.processes import launch

FLAGS = [
    "--config=configs/mask_rcnn_coco.py:smoke",
    "--config.data.threads=1",
    "--config.eval_batch_size=12",
    # One canvas, so that each command compiles one program.
    "--config.data.image_size=(96,96)",
    "--config.augment.long_side=96",
    "--config.inference.box=(96,96)",
]
TRAINED = [
    *FLAGS,
    "--config.total_steps=6",
    "--config.eval_every_steps=none",
    # With plain gradients, updates agree as well as gradients do. Adam would amplify rounding of gradients near 0.
    "--config.optimizer.name=sgd",
    "--config.optimizer.clip_norm=0",
    "--config.schedule.learning_rate=1e-2",
    "--config.model.drop_path_rate=0.2",
]
IMAGES = 32  # the last batch of 12 is not full
pytestmark = pytest.mark.xdist_group("detection by processes")  # one process makes the run that both tests need


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The workdir of a run of one process."""
    workdir = tmp_path_factory.mktemp("alone")
    done = run("train.py", *TRAINED, "--workdir", workdir)
    assert done.returncode == 0, done.stderr
    return workdir


def test_two_processes_compute_the_losses_of_one(alone, tmp_path):
    mesh = ["--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=1"]
    launcher = launch(*TRAINED, *mesh, "--workdir", tmp_path, devices=2)
    stdout, stderr = launcher.communicate(timeout=600)
    assert launcher.returncode == 0, stderr
    assert "2 process(es), mesh data=2 fsdp=2 tensor=1" in stdout
    expected, found = losses(alone), losses(tmp_path)
    assert found.keys() == expected.keys() == set(range(1, 7))
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5)  # sums in different orders


def detections(path):
    """Returns the detections of each image in a result file, the highest score first."""
    found = {}
    for record in json.loads(path.read_text()):
        found.setdefault(record["image_id"], []).append(record)
    return found


def test_an_evaluation_of_two_processes_counts_every_image_once(alone, tmp_path):
    # With the threshold 0, every image has detections, so that a lost or repeated image is noticed.
    flags = [*FLAGS, "--config.inference.score=0.0", "--checkpoint", alone]
    one = run("eval.py", *flags, "--results", tmp_path / "one.json")
    assert one.returncode == 0, one.stderr
    launched = ["--processes", 2, "--devices-per-process", 1, "--", "eval.py"]
    two = run("-m", "focalnet_jax.launch", *launched, *flags, "--results", tmp_path / "two.json")
    assert two.returncode == 0, two.stderr
    expected, found = (json.loads(done.stdout.splitlines()[-1]) for done in (one, two))
    assert found["examples"] == expected["examples"] == IMAGES
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-4)), name
    theirs, ours = detections(tmp_path / "one.json"), detections(tmp_path / "two.json")
    assert ours.keys() == theirs.keys()
    assert len(theirs) == IMAGES
    for image, records in theirs.items():
        assert len(ours[image]) == len(records)
        scores = [[record["score"] for record in each] for each in (ours[image], records)]
        np.testing.assert_allclose(*scores, rtol=1e-4)  # of a softmax of logits with sums in different orders
