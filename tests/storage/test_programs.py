"""Programs whose bucket may not be read or does not answer: one line, before anything is compiled."""

import time

import pytest
from PIL import Image

from tests.commands import EVERY, SMALL, assert_one_line_mistake, run
from tests.storage.proxy import Fault

RUN = "gs://bucket/run"
EXPIRED, FORBIDDEN = "no valid credentials", "no permission"
PROGRAMS = {
    "train": ["train.py", *SMALL, *EVERY, "--workdir", RUN],
    "eval": ["eval.py", *SMALL, "--checkpoint", RUN],
    "predict": ["-m", "focalnet_jax.predict", "PICTURE", "--checkpoint", RUN],
    "init_from": ["train.py", *SMALL, f"--config.init_from={RUN}", "--workdir", "WORKDIR"],
    "data.show": ["-m", "focalnet_jax.data.show", "--config=configs/quickstart.py", "--workdir", RUN, "--out", "PNG"],
}


@pytest.mark.fault(50)
@pytest.mark.parametrize(("name", "kind"), [*((name, 403) for name in PROGRAMS), ("train", 401)])
def test_a_program_without_permission_ends_before_it_compiles(bucket, tmp_path, name, kind):
    bucket.faults.append(Fault(kind))
    places = {"WORKDIR": tmp_path / "run", "PNG": tmp_path / "sheet.png", "PICTURE": tmp_path / "picture.png"}
    Image.new("RGB", (8, 8)).save(places["PICTURE"])
    done = run(*(places.get(argument, argument) for argument in PROGRAMS[name]), env=bucket.environment)
    assert_one_line_mistake(done, EXPIRED if kind == 401 else FORBIDDEN)
    assert RUN in done.stderr
    assert "parameters" not in done.stdout


@pytest.mark.fault(50)
@pytest.mark.parametrize("kind", [401, 403])
def test_a_download_without_permission_is_one_line(bucket, kind):
    bucket.faults.append(Fault(kind, target="alt=media"))
    done = run("-m", "focalnet_jax.checkpoint", "verify", RUN, env=bucket.environment)
    assert_one_line_mistake(done, EXPIRED if kind == 401 else FORBIDDEN)


@pytest.mark.fault(50)
def test_a_run_that_may_not_read_its_checkpoints_does_not_restart_from_step_0(bucket):
    bucket.faults.append(Fault(403, target="checkpoints"))
    done = run(*PROGRAMS["train"], env=bucket.environment)
    assert_one_line_mistake(done, f"{RUN}/checkpoints: cannot be read: no permission")


@pytest.mark.fault(51)
def test_a_command_ends_within_90_seconds_of_an_outage(bucket):
    bucket.faults.append(Fault(503))
    begun = time.monotonic()
    done = run("-m", "focalnet_jax.checkpoint", "list", RUN, env=bucket.environment)
    assert done.returncode == 1
    assert done.stderr.startswith(f"failed: {RUN}/checkpoints: cannot be read: Service Unavailable, 503")
    assert len(done.stderr.splitlines()) == 1
    assert time.monotonic() - begun < 90  # gcsfs repeats requests for about half a minute
