"""A checkpoint is used only if it is complete and unchanged; a run resumes from the newest such checkpoint."""

import os
import random
import shutil
import time

import numpy as np
import pytest

from focalnet_jax.checkpoint import integrity
from focalnet_jax.checkpoint.integrity import MANIFEST, find_damage, read_manifest
from focalnet_jax.checkpoint.manager import Checkpoints
from focalnet_jax.checkpoint.steps import list_steps, newest_step
from focalnet_jax.errors import RunFailedError
from focalnet_jax.parameters import named_leaves
from focalnet_jax.training.resume import Found, check_saved, find_newest
from focalnet_jax.training.state import TrainState, abstract_state
from tests.commands import (
    EVERY,
    SMALL,
    losses,
    run,
    saved_params,
    start,
)
from tests.distributed.meshes import spec_on, trained
from tests.faults.saver import items


def copied(workdir, tmp_path):
    """A copy of a run's workdir, to be damaged, with the checkpoints 42, 49, 56 and 60."""
    shutil.copytree(workdir, tmp_path / "run")
    return tmp_path / "run"


def files_of(step):
    return sorted(path for path in step.rglob("*") if path.is_file())


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def unfinished(folder):
    """Makes the remains of a killed save: Orbax's temporary directory, or a step without a manifest."""
    return [entry for entry in folder.iterdir() if not (entry / MANIFEST).exists()]


@pytest.mark.fault(1)
def test_a_killed_save_leaves_the_newest_complete_step(tmp_path):
    rng, kills, reached, torn = random.Random(0), 20, 0, 0
    for _ in range(kills):
        process = start("-m", "tests.faults.saver", tmp_path)
        ready = process.stdout.readline()
        time.sleep(rng.uniform(0, 0.6))
        process.kill()
        _, errors = process.communicate(timeout=150)
        assert ready == f"ready {reached}\n", errors
        torn += newest_step(tmp_path / "checkpoints") is None or bool(unfinished(tmp_path / "checkpoints"))
        found = find_newest(tmp_path / "checkpoints")
        found.put_aside()
        # Complete steps are kept: no step that was finished before the kill is lost.
        assert (found.step or 0) >= reached
        reached = found.step or 0
    assert reached >= 5  # on a busy machine; about a hundred on an idle machine
    assert torn >= 5  # number of kills during a save
    checkpoints = Checkpoints(tmp_path, "eval/top1", keep_latest=2, keep_best=1)
    restored = checkpoints.restore(reached, items(0))
    checkpoints.close()
    assert int(restored["training"]["step"]) == reached
    np.testing.assert_array_equal(restored["params"]["a"], reached)
    kept = list_steps(tmp_path / "checkpoints")
    assert 1 in kept  # the best step
    assert all(not find_damage(tmp_path / "checkpoints" / str(step)) for step in kept)


@pytest.mark.fault(2)
def test_a_partly_deleted_step_is_not_a_checkpoint(finished, tmp_path):
    workdir = copied(finished[0], tmp_path)
    step = workdir / "checkpoints" / "60"
    for path in files_of(step)[::2]:
        path.unlink()
    (workdir / "checkpoints" / ".deleting-35").mkdir()
    assert find_newest(workdir / "checkpoints").step == 56
    again = run("train.py", *SMALL, *EVERY, "--workdir", workdir)
    assert again.returncode == 0, again.stderr
    assert "resumed from step 56" in again.stdout
    assert not (workdir / "checkpoints" / ".deleting-35").exists()
    assert saved_params(workdir, 60) == saved_params(finished[0], 60)


@pytest.mark.fault(3)
@pytest.mark.fault(4)
@pytest.mark.parametrize("harm", ["cut", "flipped"])
def test_a_run_resumes_from_the_step_before_a_damaged_one_and_reports_it(finished, tmp_path, harm):
    workdir = copied(finished[0], tmp_path)
    largest = max(files_of(workdir / "checkpoints" / "60"), key=lambda path: path.stat().st_size)
    if harm == "cut":
        largest.write_bytes(largest.read_bytes()[:-10])
    else:
        flip(largest, random.Random(0))
    measured = run("eval.py", *SMALL, "--checkpoint", workdir)
    assert measured.returncode == 1
    assert measured.stderr.startswith(f"failed: checkpoint {workdir}/checkpoints/60 is damaged (")
    again = run("train.py", *SMALL, *EVERY, "--workdir", workdir)
    assert again.returncode == 0, again.stderr
    assert again.stderr.startswith("warning: checkpoint 60 is damaged (")
    assert "renamed to 60.damaged; the run resumes from step 56" in again.stderr
    assert len(again.stderr.splitlines()) == 1
    assert losses(workdir) == losses(finished[0])
    assert saved_params(workdir, 60) == saved_params(finished[0], 60)


@pytest.mark.fault(3)
@pytest.mark.fault(4)
def test_every_flipped_bit_and_every_truncation_is_detected(finished, tmp_path):
    step = copied(finished[0], tmp_path) / "checkpoints" / "60"
    assert not find_damage(step)
    rng, files = random.Random(0), files_of(step)
    for trial in range(200):
        path = rng.choice(files)
        before = path.read_bytes()
        if trial % 2:
            flip(path, rng)
        else:
            path.write_bytes(before[: rng.randrange(len(before))])
        assert find_damage(step), (path, trial)
        path.write_bytes(before)
    assert not find_damage(step)
    for path in files:
        path.rename(path.with_name("moved"))
        assert find_damage(step), path
        path.with_name("moved").rename(path)


@pytest.mark.fault(2)
def test_a_step_that_is_deleted_while_it_is_verified_counts_as_damaged(finished, tmp_path, monkeypatch):
    step = copied(finished[0], tmp_path) / "checkpoints" / "60"

    def read_and_delete(step, _read=integrity.read_manifest):
        manifest = _read(step)
        (step / MANIFEST).unlink()
        return manifest

    monkeypatch.setattr(integrity, "read_manifest", read_and_delete)
    assert not find_damage(step)  # all files in the manifest exist
    assert find_damage(step) == [f"it has no {MANIFEST}"]


@pytest.mark.fault(4)
def test_a_copy_of_a_step_under_another_number_is_damaged(finished, tmp_path):
    workdir = copied(finished[0], tmp_path)
    shutil.rmtree(workdir / "checkpoints" / "60")
    shutil.copytree(workdir / "checkpoints" / "49", workdir / "checkpoints" / "60")
    again = run("train.py", *SMALL, *EVERY, "--workdir", workdir)
    assert again.returncode == 0, again.stderr
    assert "checkpoint 60 is damaged (its files belong to step 49)" in again.stderr
    assert "resumed from step 56" in again.stdout


@pytest.mark.fault(5)
def test_a_run_without_an_intact_checkpoint_ends_and_changes_nothing(finished, tmp_path):
    workdir = copied(finished[0], tmp_path)
    for step in list_steps(workdir / "checkpoints"):
        flip(max(files_of(workdir / "checkpoints" / str(step)), key=lambda p: p.stat().st_size), random.Random(step))
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    refused = run("train.py", *SMALL, *EVERY, "--workdir", workdir)
    assert refused.returncode == 1
    assert refused.stderr.startswith(
        f"failed: all checkpoints in {workdir}/checkpoints are damaged or unfinished (60: "
    )
    assert len(refused.stderr.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()} == before


@pytest.mark.fault(5)
def test_a_run_does_not_restart_from_step_0_if_manifests_are_removed(finished, tmp_path):
    workdir = copied(finished[0], tmp_path)
    for step in list_steps(workdir / "checkpoints"):
        (workdir / "checkpoints" / str(step) / MANIFEST).unlink()
    with pytest.raises(RunFailedError, match="all checkpoints in"):
        find_newest(workdir / "checkpoints")


@pytest.mark.fault(5)
def test_a_run_whose_checkpoints_are_missing_ends_and_keeps_its_metrics(finished, tmp_path):
    workdir = copied(finished[0], tmp_path)
    (workdir / "checkpoints").rename(tmp_path / "elsewhere")
    refused = run("train.py", *SMALL, *EVERY, "--config.checkpoint_every_steps=1000", "--workdir", workdir)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"failed: the run in {workdir} saved step 60, but its")
    assert len(refused.stderr.splitlines()) == 1
    assert losses(workdir) == losses(finished[0])


@pytest.mark.fault(5)
def test_a_run_whose_newest_checkpoint_is_missing_reports_it(finished, tmp_path):
    workdir = copied(finished[0], tmp_path)
    shutil.rmtree(workdir / "checkpoints" / "60")
    again = run("train.py", *SMALL, *EVERY, "--workdir", workdir)
    assert again.returncode == 0
    assert again.stderr == "warning: checkpoint 60 is missing: the run resumes from step 56\n"


@pytest.mark.fault(5)
def test_only_a_run_that_never_saved_starts_from_step_0(tmp_path):
    check_saved(tmp_path, Found(tmp_path, None))
    (tmp_path / "saved.json").write_text('{"step": 7}')
    check_saved(tmp_path, Found(tmp_path, 7))
    for text in ('{"step": 7}', "{", "[1]"):
        (tmp_path / "saved.json").write_text(text)
        with pytest.raises(RunFailedError, match="its checkpoints are missing"):
            check_saved(tmp_path, Found(tmp_path, None))


@pytest.mark.fault(6)
def test_an_empty_or_foreign_directory_is_set_aside_with_a_warning(finished, tmp_path):
    workdir = copied(finished[0], tmp_path)
    (workdir / "checkpoints" / "77").mkdir()
    (workdir / "checkpoints" / "88").mkdir()
    (workdir / "checkpoints" / "88" / "notes.txt").write_text("mine")
    for name in ("0099", "²", "notes"):  # not names of steps
        (workdir / "checkpoints" / name).mkdir()
    again = run("train.py", *SMALL, *EVERY, "--workdir", workdir)
    assert again.returncode == 0, again.stderr
    assert "resumed from step 60" in again.stdout
    assert again.stderr.count("is foreign (it has no manifest.json)") == 2
    assert (workdir / "checkpoints" / "88.foreign" / "notes.txt").read_text() == "mine"
    assert (workdir / "checkpoints" / "²").is_dir()


@pytest.mark.fault(27)
def test_an_evaluation_that_is_nan_is_never_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, "eval/top1", keep_latest=1, keep_best=1)
    for step, top1 in ((1, 3.0), (2, float("nan")), (3, 2.0), (4, float("inf") - float("inf")), (5, 1.0)):
        checkpoints.save(step, items(step), {}, {"eval/top1": top1})
    checkpoints.wait()
    assert checkpoints.best_value() == 3.0
    assert list_steps(tmp_path / "checkpoints") == [1, 5]
    assert read_manifest(tmp_path / "checkpoints" / "1").evaluation == {"eval/top1": 3.0}
    checkpoints.close()


@pytest.mark.fault(28)
def test_steps_are_ordered_by_number_not_by_time(finished, tmp_path):
    workdir = copied(finished[0], tmp_path)
    for age, step in enumerate(sorted(list_steps(workdir / "checkpoints"), reverse=True)):
        for path in (workdir / "checkpoints" / str(step), *(workdir / "checkpoints" / str(step)).rglob("*")):
            os.utime(path, (1e9 + 1e6 * age, 1e9 + 1e6 * age))  # by modification time, the oldest step is the newest
    assert newest_step(workdir / "checkpoints") == find_newest(workdir / "checkpoints").step == 60


@pytest.mark.fault(18)
def test_a_state_saved_on_one_mesh_is_restored_bitwise_equal_on_another(tmp_path):
    _, state = trained((1, 8, 1), steps=1)
    checkpoints = Checkpoints(tmp_path, "eval/top1", keep_latest=1, keep_best=0)
    checkpoints.save(1, state.items(), {}, None)
    checkpoints.wait()
    for mesh in ((8, 1, 1), (2, 2, 2)):
        _, spec, init = spec_on(mesh)
        like = abstract_state(spec, init)
        restored = TrainState.from_items(checkpoints.restore(1, like.items()))
        for name, leaf in named_leaves(restored.items()).items():
            assert leaf.sharding == named_leaves(like.items())[name].sharding, name
            np.testing.assert_array_equal(leaf, named_leaves(state.items())[name])
    checkpoints.close()
