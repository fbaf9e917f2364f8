"""Gives every test process 8 virtual CPU devices, and shares compiled programs among the processes."""

import atexit
import fcntl
import gc
import os
import sys
from pathlib import Path

import pytest

from tests.quick import QUICK

# Libraries and traced programs are large and never freed: garbage collection would take a sixth of the loading time.
gc.set_threshold(20_000, 20, 50)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {QUICK}"
# Python keeps compiled modules for all processes, which saves half a second per process.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# All tests and the processes that they start share compiled programs; the key is the program and the flags.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parent.parent / ".pytest_cache" / "xla")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"


# Files that take half a minute or more, the longest first. If they began last, the other test processes would be idle.
_FIRST = (
    "test_faults.py",  # mostly waits
    "test_stopping.py",
    "test_hanging.py",
    "test_commands.py",
    "test_processes.py",
    "test_mosaic.py",
    "test_prepared_data.py",
    "test_data.py",
    "test_reading.py",
    "test_checkpoints.py",
    "test_backbone.py",
    "test_step.py",
    "test_in_programs.py",
    "test_second_derivatives.py",
    "test_classes.py",
    "test_evaluated_classes.py",
    "test_health.py",
    "test_continuing.py",
    "test_focalnet.py",
    "test_sharding.py",
    "test_sweep.py",
    "test_old_runs.py",
    "test_tfds_source.py",
    "test_formats.py",
    "test_fused.py",
    "test_native_rows.py",
    "test_triton.py",
    "test_preparing_again.py",
    "test_native.py",
    "test_config.py",
    "test_command.py",
    "test_preprocessing.py",
    "test_rules.py",
)


# Tests that only `make test-long` runs: files, functions or single cases, one per line.
_LONG = [line for line in Path(__file__).with_name("long.txt").read_text().splitlines() if line]


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by mark
def pytest_collection_modifyitems(config, items):
    found = set()
    for item in items:
        file, function = item.nodeid.partition("::")[0], item.nodeid.partition("[")[0]
        names = {file, function, item.nodeid} & {*_LONG}
        found |= names
        if names:
            item.add_marker("long")
    if config.args == config.getini("testpaths") and (gone := [name for name in _LONG if name not in found]):
        raise pytest.UsageError(f"tests/long.txt: there are no such tests: {', '.join(gone)}")
    items.sort(key=lambda item: _FIRST.index(item.path.name) if item.path.name in _FIRST else len(_FIRST))


def pytest_collection_finish():
    gc.freeze()  # excludes what is loaded from garbage collection
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Runs before JAX's own function, which frees all programs one by one: one second of 25.
        atexit.register(os._exit, 0)


def made_once(tmp_path_factory, name, *flags):
    """Returns the workdir and output of a run. The first test process that needs the run makes it for all processes."""
    from tests.commands import run  # imported after the environment has been set

    alone = "PYTEST_XDIST_WORKER" not in os.environ
    workdir = (tmp_path_factory.getbasetemp() if alone else tmp_path_factory.getbasetemp().parent) / name
    output = workdir.with_suffix(".txt")
    with workdir.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not output.exists():
            done = run("train.py", *flags, "--workdir", workdir)
            assert done.returncode == 0, done.stderr
            output.write_text(done.stdout)
    return workdir, output.read_text()


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Workdir and output of an uninterrupted run of 60 steps, saved every 7 steps and evaluated every 30."""
    from tests.commands import EVERY, SMALL

    return made_once(tmp_path_factory, "finished", *SMALL, *EVERY)


@pytest.fixture(scope="session")
def staged(tmp_path_factory):
    """A run like `finished`, with two stages (the second with two blocks), which learns more slowly."""
    from tests.commands import EVERY, SMALL

    slower = ["--config.model.depths=(1,2)", "--config.schedule.learning_rate=2e-3"]
    return made_once(tmp_path_factory, "staged", *SMALL, *EVERY, *slower)


@pytest.fixture(scope="session")
def segmented(tmp_path_factory):
    """The workdir of a short run of segmentation on composites of digits, which draws two predictions."""
    flags = ["--config=configs/upernet_ade20k.py:smoke", "--config.log_predictions=2", "--config.eval_every_steps=3"]
    return made_once(tmp_path_factory, "segmented", *flags)[0]


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """The workdir of a run of 20 steps in one process with one device."""
    from tests.processes import SHORT

    return made_once(tmp_path_factory, "alone", *SHORT)[0]


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder data set of crops of scikit-learn's two photos, which are the classes."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_image

    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("china", "flower"):
        photo = Image.fromarray(load_sample_image(f"{name}.jpg"))
        for split, count in (("train", 12), ("val", 5)):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                left, top = int(rng.integers(0, 400)), int(rng.integers(0, 200))
                photo.crop((left, top, left + 200, top + 180)).save(root / split / name / f"{index}.jpg")
    return root
