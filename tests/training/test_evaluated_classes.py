"""Weights are evaluated on data whose classes are named, numbered or ordered differently."""

import json
import re
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from focalnet_jax.convert.write import write_weights
from focalnet_jax.errors import UserError
from focalnet_jax.training.evaluate_checkpoint import evaluate_checkpoint
from tests.convert.random_weights import weights_of
from tests.data.flowers import NAMES, make_data_set
from tests.data.test_labels import IMAGENETTE, IMAGENETTE_WORDS
from tests.training.class_folders import config_of, write

SPRINGER = 217


def always(outputs, *best):
    """Returns weights that always predict the same classes, the best first."""
    weights = weights_of(depths=(1,), num_classes=outputs)
    weights.params["head"]["kernel"][:] = 0
    weights.params["head"]["bias"][:] = -np.arange(outputs) / outputs
    for place, output in enumerate(best):
        weights.params["head"]["bias"][output] = 10 - place
    return weights


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
    with pytest.raises(
        UserError, match=r"eval_classes=300 evaluates only outputs 0 to 299 of .*, n02979186, .*: increase eval_classes"
    ):
        evaluated(weights, folder, tmp_path, "--config.eval_classes=300")
