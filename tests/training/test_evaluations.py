"""Several evaluations in one run, each with its own data, name and cadence."""

import json
import shutil

import numpy as np
import pytest

from focalnet_jax.data.digits_source import DigitsSource
from focalnet_jax.data.slices import EvenlySpaced
from focalnet_jax.errors import UserError
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.training.run import set_up
from focalnet_jax.training.stored_config import differences
from tests.commands import SMALL, assert_one_line_mistake, run

SHORT = [*SMALL, "--config.total_steps=5"]
SEEN = ["--config.evaluations.seen.split=train", "--config.evaluations.seen.examples=60"]
AGAIN = ["--config.evaluations.again.every_steps=2", "--config.evaluations.again.eval_classes=('1','7')"]


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    done = run(
        "train.py", *SMALL, *SEEN, "--config.evaluations.again.every_steps=2", "--config.total_steps=5",
        "--config.eval_every_steps=4", "--workdir", workdir,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout


def test_each_has_its_prefix_and_its_cadence(trained):
    workdir, output = trained
    found = {
        name: [row["step"] for row in rows(workdir) if f"{name}/top1" in row] for name in ("eval", "seen", "again")
    }
    assert found == {"eval": [4, 5], "seen": [4, 5], "again": [2, 4, 5]}
    last = {name: value for row in rows(workdir) if row["step"] == 5 for name, value in row.items()}
    assert (last["eval/examples"], last["seen/examples"], last["again/examples"]) == (450, 60, 450)
    assert [last[f"again/{name}"] for name in ("top1", "loss")] == [last[f"eval/{name}"] for name in ("top1", "loss")]
    assert last["seen/loss"] != last["eval/loss"]
    assert "evaluation seen at step 5: top-1 " in output
    assert "450 to evaluate, 450 as again, 60 as seen, 10 classes" in output
    assert f"best eval/top1 {max(row['eval/top1'] for row in rows(workdir) if 'eval/top1' in row):.2f} %" in output


def test_eval_prints_all_of_them_in_its_last_line_and_reports_draw_them(trained, tmp_path):
    workdir, _ = trained
    done = run("eval.py", *SMALL, *SEEN, "--checkpoint", workdir)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    last = {name: value for row in rows(workdir) if row["step"] == 5 for name, value in row.items()}
    assert figures["top1"] == last["eval/top1"]
    assert (figures["seen/top1"], figures["seen/examples"]) == (last["seen/top1"], 60)
    from focalnet_jax.report.page import panels
    from focalnet_jax.report.runs import read_run

    titles = [title for title, *_ in panels([read_run(workdir)])]
    assert "seen loss" in titles
    assert any(title.startswith("again: top-1") for title in titles)


def test_a_run_is_resumed_with_other_evaluations(trained):
    stored = json.loads((trained[0] / "config.json").read_text())
    config = load_config("configs/quickstart.py", [*SMALL[1:], "--config.total_steps=5", *AGAIN])
    assert differences(config, stored) == []


def test_a_finished_run_makes_up_for_the_evaluations_that_it_lacks(trained, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    kept = [row for row in rows(workdir) if not (row["step"] == 5 and "seen/top1" in row)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    more = ["--config.evaluations.more.split=train", "--config.evaluations.more.examples=20"]
    done = run("train.py", *SHORT, *SEEN, *more, "--workdir", workdir)
    assert done.returncode == 0, done.stderr
    assert rows(workdir)[: len(kept)] == kept
    more_of_it, seen = rows(workdir)[len(kept) :]
    assert (more_of_it["step"], more_of_it["more/examples"]) == (5, 20)
    assert [row for row in rows(trained[0]) if row["step"] == 5 and "seen/top1" in row] == [seen]
    again = run("train.py", *SHORT, *SEEN, *more, "--workdir", workdir)
    assert f"finished: the run in {workdir} already has all 5 steps" in again.stdout


def test_a_resumed_run_knows_its_best_figure_without_that_checkpoint(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "eval/top1": 99.0}\n{"step": 4, "eval/top1": null}\n{"step": 6, "eval/top1": 100.0}\n')
    resumed = set_up(load_config("configs/quickstart.py", SHORT[1:]), tmp_path / "run")
    resumed.checkpoints.close()
    assert (resumed.step, resumed.best) == (5, 99.0)


def test_a_subset_of_classes_competes_in_one_of_them_alone(tmp_path):
    short = ["--config.total_steps=1", *AGAIN]
    done = run("train.py", *SMALL, *short, "--workdir", tmp_path)
    assert_one_line_mistake(
        done, "evaluation again has examples of classes that evaluations.again.eval_classes=1,7 lacks"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.evaluations.real.pth=x", "unknown config key 'evaluations.real.pth'"),
        ("--config.evaluations.train.split=x", "evaluations.train: expected a name of letters, digits and _ that"),
        ("--config.evaluations.1a.split=x", "starts with a letter and is not one of data, eval, "),
        ("--config.evaluations.rare.eval_classes=-1", "evaluations.rare.eval_classes=-1: expected a positive number, "),
        ("--config.evaluations.rare.eval_classes=0", "evaluations.rare.eval_classes=0: expected a positive number, "),
        ("--config.evaluations.rare.eval_classes=true", "evaluations.rare.eval_classes=True: expected a positive num"),
        ("--config.evaluations.real.examples=0", "evaluations.real.examples=0: expected a positive number"),
        ("--config.evaluations.real.examples=many", "expected an integer"),
        ("--config.evaluations.real=1", "evaluations.real is a section of the config; set one of evaluations.real.e"),
    ],
)
def test_mistakes_are_one_line(override, message):
    with pytest.raises(UserError) as caught:
        load_config("configs/quickstart.py", [override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.evaluations.real.split=vol", "evaluations.real: data.source=digits has no split 'vol'"),
        (
            "--config.evaluations.real.examples=451",
            "evaluations.real: examples=451, but the data has only 450",
        ),
        (
            "--config.evaluations.real.path=/nowhere",
            "evaluations.real.path=/nowhere is not used with data.source=digits: add "
            "--config.evaluations.real.source=folder",
        ),
        ("--config.evaluations.real.source=folder", "evaluations.real.source=folder needs data.path"),
        (
            "--config.evaluations.rare.eval_classes=99",
            "evaluations.rare.eval_classes=99: expected at most model.num_classes=10",
        ),
        (
            "--config.evaluations.rare.eval_classes=5",
            "evaluations.rare.eval_classes=5 evaluates only outputs 0 to 4 of split train, but evaluation rare also "
            "has classes of other outputs, 5, 6, 7, 8, 9: increase evaluations.rare.eval_classes, or leave it out",
        ),
    ],
)
def test_data_that_is_not_there_is_named_by_its_evaluation(override, message, tmp_path):
    with pytest.raises(UserError) as caught:
        set_up(load_config("configs/quickstart.py", [*SMALL[1:], override]), tmp_path)
    assert message in str(caught.value)


def test_a_tilde_in_the_path_of_an_evaluation_is_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config("configs/quickstart.py", ["--config.evaluations.real.path=~/real"])
    assert config.evaluations.real.path == str(tmp_path / "real")


def test_a_slice_is_evenly_spaced_and_its_labels_are_its_examples():
    whole = DigitsSource("train")
    part = EvenlySpaced(whole, 100)
    assert len(part) == 100
    np.testing.assert_array_equal(part.labels, [part[index][1] for index in range(100)])
    assert {part.name(index) for index in (0, 99)} == {whole.name(0), whole.name(99 * len(whole) // 100)}
    assert part.fingerprint not in (whole.fingerprint, EvenlySpaced(whole, 99).fingerprint)
