"""The labels of a run are indices of its classifier's outputs, when it starts, resumes and is evaluated."""

import json
import re
import shutil
from pathlib import Path

import pytest

from focalnet_jax.convert.write import write_weights
from focalnet_jax.data import folder_source
from focalnet_jax.distributed import startup
from focalnet_jax.errors import UserError
from focalnet_jax.training.evaluate_checkpoint import evaluate_checkpoint
from focalnet_jax.training.loop import train
from focalnet_jax.training.run import set_up
from focalnet_jax.transfer.extract import extract_features
from tests.convert.random_weights import weights_of
from tests.data.test_labels import IMAGENETTE
from tests.training.class_folders import config_of, write

SPRINGER = 217


def test_a_class_without_validation_pictures_is_trained_and_named(tmp_path, capsys):
    folder = write(tmp_path / "data/train", ["cat", "cow", "dog"], 3)
    write(folder / "val", ["dog"])
    (folder / "val/cat").mkdir()  # cow has no folder, and cat has an empty folder
    config = config_of(folder, 3)
    run = set_up(config, tmp_path / "none")
    assert {run.evaluations["eval"].evaluation.source[index][1] for index in range(2)} == {2}
    assert "split val: 1 of the 3 classes of split train" in capsys.readouterr().out
    assert train(config, tmp_path / "run") == 0
    capsys.readouterr()
    assert evaluate_checkpoint(config, str(tmp_path / "run"))["examples"] == 2
    assert f"split val: 1 of the 3 classes of {tmp_path / 'run'}" in capsys.readouterr().out
    shutil.rmtree(folder / "val/cat")
    assert train(config, tmp_path / "run") == 0
    assert "without cat, cow" in capsys.readouterr().out


def test_a_class_without_training_pictures_is_refused_with_advice_that_works(tmp_path):
    folder = write(tmp_path / "data/train", ["cat", "dog"], 4)
    write(folder / "val", ["bird", "cat", "dog"])
    config = config_of(folder, 2)
    with pytest.raises(UserError, match=r"1 class that split train lacks: bird .* Remove these classes from split val"):
        set_up(config, tmp_path / "run")
    (folder / "train/bird").mkdir()
    with pytest.raises(UserError, match=r"bird contains no images; .*: add images .* remove the folder from all"):
        set_up(config, tmp_path / "run")
    shutil.rmtree(folder / "train/bird")
    shutil.rmtree(folder / "val/bird")
    set_up(config, tmp_path / "run")
    (folder / "val/bird").mkdir()  # an empty folder
    set_up(config, tmp_path / "run")


def test_one_class_alone_is_refused(tmp_path):
    folder = write(tmp_path / "data/train", ["cat"], 8)
    write(folder / "val", ["cat"])
    with pytest.raises(UserError, match="only one class, cat: expected two or more"):
        set_up(config_of(folder, 1), tmp_path / "run")


def test_training_from_weights_keeps_the_meaning_of_their_outputs(tmp_path, capsys):
    folder = write(tmp_path / "data/train", IMAGENETTE)
    write(folder / "val", list(IMAGENETTE)[3:5])
    write_weights(weights_of(depths=(1,), num_classes=1000), tmp_path / "weights.safetensors", format="timm")
    run = set_up(config_of(folder, 1000, f"--config.init_from={tmp_path}/weights.safetensors"), tmp_path / "run")
    assert {run.train_data.source[index][1] for index in range(20)} == set(IMAGENETTE.values())
    assert [run.evaluations["eval"].evaluation.source[index][1] for index in range(4)] == [491, 491, 497, 497]
    assert run.train_data.source.class_names[SPRINGER] == "n02102040"
    assert "split train: 10 of the 1000 classes" in capsys.readouterr().out
    fresh = set_up(config_of(folder, 1000), tmp_path / "run")
    assert {fresh.train_data.source[index][1] for index in range(20)} == set(range(10))
    named = write(tmp_path / "pets/train", ["cat", "dog"], 4)
    write(named / "val", ["cat", "dog"])
    write_weights(weights_of(depths=(1,), num_classes=2), tmp_path / "two.safetensors", format="timm")
    start = [f"--config.init_from={tmp_path}/two.safetensors"]
    with pytest.raises(UserError, match=r"are unknown.*data.classes=FILE .*init_head=drop"):
        set_up(config_of(named, 2, *start), tmp_path / "run")
    set_up(config_of(named, 2, *start, "--config.init_head=drop"), tmp_path / "run")
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    kept = set_up(config_of(named, 2, *start, f"--config.data.classes={tmp_path}/classes.txt"), tmp_path / "run")
    assert [kept.train_data.source[index][1] for index in (0, 7)] == [1, 0]


def test_a_fresh_classifier_has_the_classes_of_a_file_if_one_is_given(tmp_path):
    folder = write(tmp_path / "data/train", ["cat", "dog"], 4)
    write(folder / "val", ["cat"])
    (tmp_path / "classes.json").write_text('{"dog": 0, "emu": 1, "cat": 2}')
    run = set_up(config_of(folder, 3, f"--config.data.classes={tmp_path}/classes.json"), tmp_path / "run")
    assert run.train_data.source.class_names == ("dog", "emu", "cat")
    assert run.evaluations["eval"].evaluation.source[0][1] == 2


def test_numbered_folders_sort_as_numbers_and_runs_that_sorted_them_as_text_keep_their_order(tmp_path, monkeypatch):
    names = [str(number) for number in range(11)]
    folder = write(tmp_path / "data/train", names, 1)
    write(folder / "val", names[::-1], 1)
    old, new = tmp_path / "old", tmp_path / "new"
    with monkeypatch.context() as before:
        before.setattr(folder_source, "are_numbers", lambda names: False)
        assert train(config_of(folder, 11, "--config.log_every_steps=1"), old) == 0
    config = config_of(folder, 11, "--config.log_every_steps=1")
    assert set_up(config, new).train_data.source.class_names == tuple(names)
    resumed = set_up(config, old)
    assert (resumed.step, resumed.train_data.source.class_names[:4]) == (1, ("0", "1", "10", "2"))
    for data in (resumed.train_data, resumed.evaluations["eval"].evaluation):
        labels = {re.search(r"/(\d+)/", data.source.name(index))[1]: data.source[index][1] for index in range(11)}
        assert [labels[name] for name in ("0", "1", "10", "2")] == [0, 1, 2, 3]
    last = [json.loads(line) for line in (old / "metrics.jsonl").read_text().splitlines()][-1]
    assert evaluate_checkpoint(config, str(old))["loss"] == pytest.approx(last["eval/loss"], rel=1e-6)


def test_the_classes_of_a_run_may_not_be_put_in_another_order(tmp_path):
    folder = write(tmp_path / "data/train", ["cat", "dog"], 4)
    write(folder / "val", ["Chat", "Chien"])
    write(folder / "test", ["cat"])
    assert train(config_of(folder, 2, "--config.data.eval_split=test"), tmp_path / "run") == 0
    file = tmp_path / "classes.txt"
    file.write_text("dog\ncat\n")
    with pytest.raises(UserError, match="in another order than the checkpoint"):
        evaluate_checkpoint(config_of(folder, 2, f"--config.data.classes={file}"), str(tmp_path / "run"))
    file.write_text("chat\nchien\n")
    renamed = config_of(folder, 2, f"--config.data.classes={file}")
    assert evaluate_checkpoint(renamed, str(tmp_path / "run"))["examples"] == 4
    with pytest.raises(UserError, match="has other classes than this run"):
        set_up(config_of(folder, 2, "--config.data.eval_split=test", f"--config.data.classes={file}"), tmp_path / "run")


def test_numbers_are_no_places_among_the_names_of_a_run(tmp_path):
    write(tmp_path / "named" / "train", ["dog", "cat"], 4)
    write(tmp_path / "named" / "val", ["dog", "cat"])
    assert train(config_of(tmp_path / "named", 2), tmp_path / "run") == 0
    numbered = write(tmp_path / "numbered" / "val", ["0", "1"])
    with pytest.raises(UserError, match=r"2 classes that .* lacks: 0, 1"):
        evaluate_checkpoint(config_of(numbered, 2), str(tmp_path / "run"))


def test_an_evaluation_holds_out_what_the_run_held_out(tmp_path, capsys, monkeypatch):
    write(tmp_path / "data", ["cat", "dog"], 40)
    run, more = tmp_path / "run", "--config.data.held_out=0.5"
    assert train(config_of(tmp_path / "data", 2, "--config.data.held_out=0.1"), run) == 0
    trained = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["eval/examples"]
    config = config_of(tmp_path / "data", 2, more)
    assert evaluate_checkpoint(config, str(run))["examples"] == trained
    assert "warning" not in capsys.readouterr().err
    assert evaluate_checkpoint(config, str(run), named=["data.held_out"])["examples"] > trained
    assert "some of the evaluated images may be training images" in capsys.readouterr().err
    monkeypatch.setattr(startup, "is_first", lambda: False)
    evaluate_checkpoint(config, str(run), named=["data.held_out"])
    assert not capsys.readouterr().err


def test_features_of_both_splits_have_the_training_splits_labels(tmp_path):
    folder = write(tmp_path / "data/train", ["cat", "cow", "dog"])
    write(folder / "val", ["dog"])
    weights = f"{tmp_path}/weights.safetensors"
    write_weights(weights_of(depths=(1,), num_classes=1000), Path(weights), format="timm")
    options = dict(use_postln=False, normalize_modulator=False)
    known, asked = extract_features(config_of(folder, 1000), weights, options=options)
    assert (known.labels.tolist(), asked.labels.tolist()) == ([0, 0, 1, 1, 2, 2], [2, 2])
    write(folder / "test", ["bird"])
    with pytest.raises(UserError, match="split train lacks: bird"):
        extract_features(config_of(folder, 1000, "--config.data.eval_split=test"), weights, options=options)
