"""Labels are indices of the classifier's outputs, whether it comes from weights, a run or the training split."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from focalnet_jax.convert.write import write_weights
from focalnet_jax.data import folder_source
from focalnet_jax.distributed import startup
from focalnet_jax.errors import UserError
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.training.evaluate_checkpoint import evaluate_checkpoint
from focalnet_jax.training.loop import train
from focalnet_jax.training.run import set_up
from focalnet_jax.transfer.extract import extract_features
from tests.convert.random_weights import weights_of
from tests.data.flowers import NAMES, make_data_set
from tests.data.test_labels import IMAGENETTE, IMAGENETTE_WORDS

SPRINGER = 217
SMALL = [
    "--config.model.embed_dim=8",
    "--config.model.depths=(1,)",
    "--config.data.source=folder",
    "--config.data.image_size=16",
    "--config.data.eval_resize=16",
    "--config.batch_size=8",
    "--config.total_epochs=none",
    "--config.total_steps=1",
    "--config.schedule.warmup_epochs=none",
    "--config.writers=()",
]


def config_of(folder, outputs, *more):
    options = [*SMALL, f"--config.data.path={folder}", f"--config.model.num_classes={outputs}", *more]
    return load_config("configs/quickstart.py", options)


def always(outputs, *best):
    """Returns weights that always predict the same classes, the best first."""
    weights = weights_of(depths=(1,), num_classes=outputs)
    weights.params["head"]["kernel"][:] = 0
    weights.params["head"]["bias"][:] = -np.arange(outputs) / outputs
    for place, output in enumerate(best):
        weights.params["head"]["bias"][output] = 10 - place
    return weights


def write(folder, names, count=2):
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (20, 18), (number, 99, 99)).save(folder / name / f"{number}.png")
    return folder.parent


def evaluated(weights, folder, tmp_path, *more, names=None):
    """Evaluates weights on `folder`, stored as a file, or as a directory with an id2label."""
    outputs = len(weights.params["head"]["bias"])
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}{'' if names else '.safetensors'}"
    write_weights(weights, path, format="huggingface" if names else "timm")
    if names:
        stated = json.loads((path / "config.json").read_text())
        stated["id2label"] = {str(number): name for number, name in enumerate(names)}
        (path / "config.json").write_text(json.dumps(stated))
    return evaluate_checkpoint(config_of(folder, outputs, *more), str(path))


@pytest.mark.parametrize("count", [10, 3, 1])
def test_folders_with_some_of_imagenets_synsets_are_these_outputs(tmp_path, capsys, count):
    names = list(IMAGENETTE)[1 : 1 + count]
    result = evaluated(always(1000, SPRINGER), write(tmp_path / "data/val", names), tmp_path)
    assert result["top1"] == pytest.approx(100 / len(names))
    line = f"split val: {len(names)} of the 1000 classes of {tmp_path}/1.safetensors, matched by synset id\n"
    assert line in capsys.readouterr().out


def test_folders_with_words_are_these_outputs(tmp_path):
    words = [name.replace(" ", "_").lower() for name in IMAGENETTE_WORDS]
    assert evaluated(always(1000, SPRINGER), write(tmp_path / "data/val", words), tmp_path)["top1"] == 10
    ten = always(10, 1)
    synsets = write(tmp_path / "synsets/val", IMAGENETTE)
    for order in (1, -1):  # outputs in a different order from the sorted folders
        ten.params["head"]["bias"] = ten.params["head"]["bias"][::order]
        result = evaluated(ten, synsets, tmp_path, names=IMAGENETTE_WORDS[::order])
        assert result["top1"] == 10


def test_numbered_folders_are_outputs_by_their_numbers(tmp_path, capsys):
    numbers = ["0", "1", "10", "217", "9"]
    assert evaluated(always(1000, SPRINGER), write(tmp_path / "data/val", numbers), tmp_path)["top1"] == 20
    output = capsys.readouterr().out
    assert "matched by number (torchvision sorts such folders as text" in output
    assert ": 0 is n01440764, 1 is n01443537, ..." in output
    shutil.rmtree(tmp_path / "data/val/217")
    for answer, right in ((10, 25), (2, 0)):  # sorted as strings, the third folder is 10
        assert evaluated(always(11, answer), tmp_path / "data", tmp_path)["top1"] == right


def test_names_that_nothing_explains_are_refused_until_a_file_does(tmp_path):
    folder = write(tmp_path / "data/val", ["cat", "dog", "emu"])
    with pytest.raises(UserError, match=r"the names of the 3 outputs .*--config.data.classes=FILE"):
        evaluated(always(3, 0), folder, tmp_path)
    with pytest.raises(UserError, match=r"3 classes that .* lacks: cat, dog, emu"):
        evaluated(always(1000, 0), folder, tmp_path)
    file = tmp_path / "classes.txt"
    file.write_text("emu\ncat\ndog\n")
    for answer in range(3):
        (folder / "val/emu/1.png").unlink(missing_ok=True)
        result = evaluated(always(3, answer), folder, tmp_path, f"--config.data.classes={file}")
        assert result["top1"] == pytest.approx([20, 40, 40][answer])
    file.write_text("emu\ncat\n")
    with pytest.raises(UserError, match=r"classes.txt has 2 classes; expected 3, one for each output"):
        evaluated(always(3, 0), folder, tmp_path, f"--config.data.classes={file}")


def test_figures_of_a_subset_stand_beside_those_of_all_outputs(tmp_path):
    weights = always(1000, 5, SPRINGER, 0)  # 5 is not a class of the data
    folder = write(tmp_path / "data/val", IMAGENETTE)
    present = evaluated(weights, folder, tmp_path, "--config.eval_classes=present")
    assert (present["top1"], present["top1_subset"], present["subset_classes"]) == (0, 10, 10)
    assert (present["top5"], present["top5_subset"]) == (20, 50)
    (tmp_path / "many.txt").write_text("\n".join([*IMAGENETTE, "n01498041"]))  # and stingray, output 6
    many = evaluated(always(1000, 5, 6, SPRINGER), folder, tmp_path, f"--config.eval_classes={tmp_path}/many.txt")
    assert (many["top1_subset"], many["top5_subset"], many["subset_classes"]) == (0, 40, 11)
    named = evaluated(weights, folder, tmp_path, f"--config.eval_classes={tuple(IMAGENETTE_WORDS)}")
    assert named["top1_subset"] == 10
    with pytest.raises(UserError, match=r"examples of classes that eval_classes=tench,church lacks, such as n02102040"):
        evaluated(weights, folder, tmp_path, "--config.eval_classes=('tench','church')")


def test_a_prepared_data_set_goes_by_its_names_and_may_list_classes_that_it_has_no_examples_of(tmp_path, capsys):
    label = {"label": tfds.features.ClassLabel(names=NAMES)}  # rose, tulip, daisy
    data = make_data_set(tmp_path / "flowers" / "1.0.0", label, [0, 2, 2, 0, 2])
    options = ["--config.data.source=tfds", "--config.data.eval_split=train", "--config.eval_classes=present"]
    result = evaluated(always(3, 2, 1, 0), data, tmp_path, *options, names=["daisy", "oak", "Rose"])
    assert (result["top1"], result["top1_subset"], result["subset_classes"]) == (40, 40, 2)
    assert "split train: 2 of the 3 classes of" in capsys.readouterr().out
    data = make_data_set(tmp_path / "other" / "1.0.0", label, [0, 1])
    with pytest.raises(UserError, match="lacks: tulip"):
        evaluated(always(3, 2), data, tmp_path, *options, names=["daisy", "oak", "rose"])


def test_the_first_outputs_alone_may_compete(tmp_path, capsys):
    folder = write(tmp_path / "data/val", IMAGENETTE)
    weights = always(21842, 5000, SPRINGER)
    assert evaluated(weights, folder, tmp_path)["top1"] == 0
    few = evaluated(weights, folder, tmp_path, "--config.eval_classes=1000")
    assert (few["top1"], set(few) & {"top1_subset"}) == (10, set())
    assert re.search(r": 10 of the first 1000 classes of \S+, matched by", capsys.readouterr().out)
    with pytest.raises(UserError, match=r"the first 300 outputs of .* lacks: n02979186"):
        evaluated(weights, folder, tmp_path, "--config.eval_classes=300")


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
    with pytest.raises(UserError, match="in another order than its training"):
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
