"""python -m focalnet_jax.checkpoint lists, verifies, compares and prunes the checkpoints of a run."""

import shutil

import pytest

from focalnet_jax.checkpoint.__main__ import main
from focalnet_jax.checkpoint.lock import held
from focalnet_jax.checkpoint.steps import kept, list_steps
from focalnet_jax.errors import RunFailedError, UserError


@pytest.fixture
def workdir(finished, tmp_path):
    """Returns a copy of a finished run's workdir, with the checkpoints 49, 56 and 60, of which 60 was evaluated."""
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def run_command(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    return status, capsys.readouterr().out.splitlines()


def test_steps_are_listed_with_the_best_and_what_is_none(workdir, capsys):
    (workdir / "checkpoints" / "7").mkdir()
    status, lines = run_command(capsys, "list", workdir)
    assert status == 0
    assert [line.split()[0] for line in lines] == ["step", "7", *map(str, list_steps(workdir / "checkpoints")[1:])]
    assert "not a checkpoint: it has no manifest.json" in lines[1]
    assert [line.split()[0] for line in lines if line.endswith("best")] == ["60"]


def test_damage_is_found_and_sets_the_exit_code(workdir, capsys):
    assert run_command(capsys, "verify", workdir)[0] == 0
    metadata = workdir / "checkpoints" / "60" / "metadata" / "metadata"
    metadata.write_text(metadata.read_text().replace("quickstart", "quickstarT").replace("digits", "digitz"))
    status, lines = run_command(capsys, "verify", workdir)
    assert status == 1
    assert "60  damaged: metadata/metadata has changed" in lines[-1]
    assert run_command(capsys, "verify", workdir, "--step", 56)[0] == 0
    with pytest.raises(UserError, match="has no step 8; expected one of"):
        run_command(capsys, "verify", workdir, "--step", 8)


def test_two_steps_are_compared_number_by_number(workdir, capsys):
    status, lines = run_command(capsys, "diff", workdir, 56, 60)
    assert status == 0
    assert any(line.startswith("head/kernel") for line in lines)
    assert lines[-1].startswith("0 of ")
    _, lines = run_command(capsys, "diff", workdir, 60, 60)
    count = lines[-1].split()[0]
    assert lines[-1] == f"{count} of {count} parameters are bitwise equal"


def test_pruning_leaves_the_newest_and_the_best_and_no_run_is_disturbed(workdir, capsys):
    before = list_steps(workdir / "checkpoints")
    assert run_command(capsys, "prune", workdir, "--dry-run")[1][0].startswith("would delete 49, 56")
    assert list_steps(workdir / "checkpoints") == before
    with held(workdir), pytest.raises(UserError, match="used by another run"):
        run_command(capsys, "prune", workdir)
    assert run_command(capsys, "prune", workdir) == (0, ["deleted 49, 56"])
    assert list_steps(workdir / "checkpoints") == [60]
    with pytest.raises(UserError, match="expected --keep-latest of at least 1"):
        run_command(capsys, "prune", workdir, "--keep-latest", 0)


def test_pruning_keeps_a_good_step_and_deletes_no_damaged_one_that_it_would_have_kept(workdir, capsys):
    largest = max((workdir / "checkpoints" / "60").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[7] ^= 1
    largest.write_bytes(content)
    assert run_command(capsys, "prune", workdir) == (1, ["deleted 49", "damaged, not deleted: 60"])
    assert list_steps(workdir / "checkpoints") == [56, 60]


def test_the_lock_is_found_whatever_the_directory_is_called(workdir, capsys, monkeypatch):
    (workdir.parent / "link").symlink_to(workdir / "checkpoints")
    monkeypatch.chdir(workdir / "checkpoints")
    with held(workdir):
        for name in (".", workdir.parent / "link"):
            with pytest.raises(UserError, match="used by another run"):
                run_command(capsys, "prune", name)


def test_checkpoints_on_another_disk_are_not_pruned_beside_a_run(workdir, capsys):
    (workdir / "checkpoints").rename(workdir.parent / "disk")
    (workdir / "checkpoints").symlink_to(workdir.parent / "disk")
    with held(workdir):
        for name in (workdir, workdir / "checkpoints"):
            with pytest.raises(UserError, match="used by another run"):
                run_command(capsys, "prune", name)
    assert run_command(capsys, "prune", workdir) == (0, ["deleted 49, 56"])


def test_a_step_that_is_being_written_is_not_reported_as_damaged(workdir, capsys):
    (workdir / "checkpoints" / "60" / "manifest.json").unlink()
    with held(workdir):
        status, lines = run_command(capsys, "verify", workdir)
    assert (status, lines[-1].strip()) == (0, "60  being written")
    status, lines = run_command(capsys, "verify", workdir)
    assert (status, lines[-1].strip()) == (1, "60  damaged: it has no manifest.json")


def test_a_step_by_itself_is_verified_too(workdir, tmp_path, capsys):
    (workdir / "checkpoints" / "60").rename(tmp_path / "shared")
    status, lines = run_command(capsys, "verify", tmp_path / "shared")
    assert status == 0
    assert lines[0].split()[:2] == ["shared", "good:"]


def test_of_equal_steps_the_older_is_the_best_and_unevaluated_steps_are_not():
    metrics = {1: 5.0, 2: 5.0, 3: float("-inf"), 4: 1.0, 5: float("-inf")}
    assert kept(metrics, 1, 1) == {5, 1}
    assert kept(metrics, 2, 2) == {5, 4, 1, 2}
    assert kept(metrics, 0, 0) == set()
    assert kept(metrics, 9, 0) == set(metrics)


def test_a_step_that_lost_its_manifest_is_named_by_all(workdir, capsys):
    (workdir / "checkpoints" / "56" / "manifest.json").unlink()
    assert "56  damaged: it has no manifest.json" in run_command(capsys, "verify", workdir)[1][1]
    assert run_command(capsys, "prune", workdir) == (1, ["deleted 49", "damaged, not deleted: 56"])
    with pytest.raises(RunFailedError, match="56 is damaged: it has no manifest"):
        run_command(capsys, "diff", workdir, 56, 60)
    assert run_command(capsys, "verify", workdir / "checkpoints" / "56")[0] == 1
