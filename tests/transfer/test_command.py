"""The command python -m focalnet_jax.transfer, as a user types it."""

import json

import numpy as np
import pytest

from focalnet_jax.checkpoint.weights import save_params
from focalnet_jax.errors import UserError
from focalnet_jax.model.variants import model_metadata
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.transfer.__main__ import main
from focalnet_jax.transfer.extract import extract_features
from tests.commands import SMALL, assert_one_line_mistake, run
from tests.convert.golden_files import GOLDEN, OPTIONS
from tests.convert.random_weights import weights_of

DIGITS = ["--config.data.source=digits", "--config.data.path=none", "--config.data.image_size=32"]


def transfer(*arguments):
    return run("-m", "focalnet_jax.transfer", *arguments)


def test_features_of_a_run_are_written_and_measured(staged, tmp_path):
    workdir, _ = staged
    out = tmp_path / "features.npz"
    arguments = [*SMALL, "--checkpoint", workdir, "--config.eval_batch_size=64"]
    done = transfer("features", "knn", "linear", "few_shot", *arguments, "--out", out, "--shots", "1,10,1000")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["train_examples"], result["examples"]) == (1347, 450)
    assert set(result) >= {"knn/10", "knn/20", "linear", "few_shot/1", "few_shot/10"}
    # After 60 steps, the model's classifier reaches 60 %; guessing gives 10 %.
    assert result["linear"] > 60
    assert result["knn/10"] > 60
    assert result["few_shot/10"] > result["few_shot/1"] > 15
    held = np.load(out)
    assert (held["train_values"].shape, held["eval_values"].shape) == ((1347, 32), (450, 32))
    assert (len(held["eval_labels"]), set(held["eval_labels"])) == (450, set(range(10)))
    assert_one_line_mistake(transfer("knn", *arguments, "--out", out), "already exists")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["features"], "features needs --out FILE.npz"),
        (["knn", "--neighbours", "0,3"], "--neighbours 0,3: expected whole numbers above 0"),
        (["guess"], "invalid choice"),
    ],
)
def test_a_mistake_gets_one_line(arguments, message):
    assert_one_line_mistake(transfer(*arguments, *SMALL, "--checkpoint", "nowhere"), message)


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path):
    for out, message in ((tmp_path / "no" / "f.npz", "there is no folder"), (tmp_path / "f.npz", "is a folder")):
        (tmp_path / "f.npz").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=message):
            main(["features", *SMALL, "--checkpoint", "nowhere", "--out", str(out)])


def test_weights_get_the_options_that_a_user_gives_where_the_config_leaves_the_model_open():
    config = load_config("configs/own_folder.py", DIGITS)
    path = str(GOLDEN / "timm_lrf.safetensors")  # a classifier with 5 classes
    train, test = extract_features(config, path, options=OPTIONS["timm_lrf"])
    assert (set(train.labels), set(test.labels)) == (set(range(10)), set(range(10)))


def test_a_selection_of_outputs_is_refused_since_no_classifier_is_used():
    with pytest.raises(UserError, match="eval_classes=present selects outputs of the classifier"):
        main(["knn", *SMALL, "--checkpoint", "nowhere", "--config.eval_classes=present"])


def test_weights_of_another_task_get_one_line_that_names_it(tmp_path):
    weights = weights_of(depths=(1,))
    metadata = {
        "model": model_metadata(None, weights.config),
        "config": {"task": "toy", "data": {"source": "digits", "image_size": 32}},
        "classes": 5,
    }
    save_params(tmp_path / "run", {"backbone": weights.params}, metadata)
    for config in (load_config("configs/quickstart.py"), load_config("configs/own_folder.py", DIGITS)):
        with pytest.raises(UserError, match=r"is a checkpoint of the task toy, .* of classification$"):
            extract_features(config, str(tmp_path / "run"))
