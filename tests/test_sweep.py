"""A sweep trains its runs one after the other and prints a table of them."""

import json
import signal
import subprocess
import sys

import pytest

from focalnet_jax.errors import UserError
from focalnet_jax.settings.tasks import TASKS
from focalnet_jax.sweep.__main__ import combinations, main, split_values, table
from focalnet_jax.system import children
from tests.commands import SMALL, assert_one_line_mistake, losses, run

TWO = [*SMALL, "--config.total_steps=2", "--config.schedule.learning_rate=1e-3,nothing", "--config.seed=0,1"]


def sweep(*arguments):
    return run("-m", "focalnet_jax.sweep", *arguments)


def test_values_are_split_where_commas_stand_in_no_brackets():
    assert split_values("1e-3,2e-3") == ["1e-3", "2e-3"]
    assert split_values("(1,2),(2,2)") == ["(1,2)", "(2,2)"]
    assert split_values("(0.5,1.0)") == ["(0.5,1.0)"]
    assert split_values("") == [""]


def test_every_combination_is_a_run_with_a_name_of_what_differs():
    runs = combinations(["--config.seed=0,1", "--config.batch_size=8", "--config.model.depths=(1,),(1,2)"])
    assert [name for name, _ in runs] == [
        "seed=0,model.depths=(1,)",
        "seed=0,model.depths=(1,2)",
        "seed=1,model.depths=(1,)",
        "seed=1,model.depths=(1,2)",
    ]
    assert runs[2][1] == ["--config.seed=1", "--config.batch_size=8", "--config.model.depths=(1,)"]
    for wrong in (["--config.seed=1"], ["--config.seed=1,1"], []):
        with pytest.raises(UserError):
            combinations(wrong)


def test_runs_follow_each_other_and_a_finished_sweep_is_left_alone(tmp_path):
    arguments = [*TWO[:-2], "--config.seed=0,1", "--workdir", tmp_path]
    done = sweep(*arguments)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "sweep.json").read_text())
    assert [(result["run"], result["step"]) for result in results] == [("seed=0", 2), ("seed=1", 2)]
    assert [result["settings"] for result in results] == [{"seed": 0}, {"seed": 1}]
    assert losses(tmp_path / "seed=0") != losses(tmp_path / "seed=1")
    assert results[0]["loss"] == losses(tmp_path / "seed=0")[2]
    assert "run 2/2: seed=1" in done.stdout
    assert (tmp_path / "report.html").read_text().count("<h2>Settings that differ</h2>") == 1
    again = sweep(*arguments)
    assert (again.returncode, again.stdout.count("already")) == (0, 2)


def test_a_mistake_in_any_combination_is_reported_before_the_first_run(tmp_path):
    refused = sweep(*TWO, "--workdir", tmp_path / "sweep")
    assert_one_line_mistake(refused, "--config.schedule.learning_rate=nothing: expected a number")
    assert not (tmp_path / "sweep").exists()


def test_a_runs_own_folder_is_no_place_for_others(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    refused = run("-m", "focalnet_jax.sweep", *SMALL, "--config.seed=0,1", "--workdir", tmp_path)
    assert_one_line_mistake(refused, "is the workdir of a run")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_an_invalid_workdir_is_refused_before_the_first_run(tmp_path, capsys):
    (tmp_path / "file").touch()
    for workdir in (tmp_path / "file", tmp_path / "file" / "sweep"):
        with pytest.raises(UserError, match="file is a file; expected a folder: choose another"):
            main([*SMALL, "--config.seed=0,1", "--workdir", str(workdir)])
    assert capsys.readouterr().out == ""


def test_the_table_has_the_best_first_and_names_failures():
    rows = table(
        [
            {"run": "a", "status": 0, "step": 5, "loss": 1.0, "top1": 50.0, "best_top1": 60.0},
            {"run": "bc", "status": 1},
            {"run": "d", "status": 0, "step": 5, "loss": 2.0, "top1": 70.0, "best_top1": 70.0},
        ],
        TASKS[0],
    ).splitlines()
    assert [row.split()[0] for row in rows] == ["run", "d", "a", "bc"]
    assert "failed before it logged anything" in rows[3]


def test_names_of_runs_are_files_names_and_unlike_each_other():
    with pytest.raises(UserError, match=r"two runs would have the same workdir data\.path=p_q"):
        combinations(["--config.data.path=p/q,p_q"])
    long = combinations([f"--config.data.path={'a' * 300},{'a' * 299}b"])
    assert len({name for name, _ in long}) == 2
    assert all(len(name) < 255 for name, _ in long)


def test_a_run_that_its_data_rejects_does_not_keep_others_from_the_table(tmp_path):
    done = sweep(*SMALL, "--config.total_steps=1", "--config.batch_size=99999,32", "--workdir", tmp_path)
    assert done.returncode == 2
    assert "batch_size=99999 is larger than the 1347 training examples" in done.stderr
    results = json.loads((tmp_path / "sweep.json").read_text())
    assert [(result["run"], result["status"]) for result in results] == [("batch_size=99999", 2), ("batch_size=32", 0)]
    assert "batch_size=99999  rejected" in done.stdout


def test_an_invalid_model_is_refused_before_the_first_run(tmp_path, capsys):
    with pytest.raises(UserError, match="depths"):
        main(
            [
                *SMALL,
                "--config.model.depths=(1,),(1,2,3,4,5,6)",
                "--config.model.focal_levels=(2,2)",
                f"--workdir={tmp_path}",
            ]
        )
    assert capsys.readouterr().out == ""


def sweep_of(first, tmp_path, monkeypatch):
    """Runs a sweep of two runs, of which the second succeeds; returns its exit code and the exit codes in its table."""
    programs = [first, "pass"]

    def start(_):
        return subprocess.Popen([sys.executable, "-c", programs.pop(0)], start_new_session=True)

    monkeypatch.setattr(children, "start", start)
    status = main([*SMALL, "--config.seed=0,1", "--workdir", str(tmp_path)])
    written = tmp_path / "sweep.json"
    return status, [result["status"] for result in json.loads(written.read_text())] if written.exists() else None


@pytest.mark.parametrize("number", ["SIGSEGV", "SIGKILL"])
def test_a_run_that_crashes_does_not_end_the_sweep(number, tmp_path, monkeypatch):
    crash = f"import os, signal; os.kill(os.getpid(), signal.{number})"
    assert sweep_of(crash, tmp_path, monkeypatch) == (1, [128 + signal.Signals[number], 0])


@pytest.mark.parametrize("status", [42, 130, 143])
def test_a_run_that_was_stopped_ends_the_sweep(status, tmp_path, monkeypatch):
    assert sweep_of(f"raise SystemExit({status})", tmp_path, monkeypatch) == (status, None)


@pytest.mark.parametrize("status", [0, 1, 42])
def test_a_signal_to_the_sweep_reaches_its_run_and_ends_the_sweep(status, tmp_path, monkeypatch):
    run = f"import os, signal, time; signal.signal(15, lambda *_: os._exit({status})); os.kill(os.getppid(), 15)"
    assert sweep_of(f"{run}; time.sleep(60)", tmp_path, monkeypatch) == (status or 143, None)
