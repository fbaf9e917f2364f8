"""A second task runs with the three parts that CONTRIBUTING.md names: a kind, settings and an entry in the tasks."""

import json
import sys
from types import ModuleType

import pytest

import focalnet_jax
from focalnet_jax.errors import UserError
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.settings import classification as settings
from focalnet_jax.tasks.classification import kind
from focalnet_jax.tasks.classification.task import Classification
from focalnet_jax.training.evaluate_checkpoint import evaluate_checkpoint
from focalnet_jax.training.loop import train
from focalnet_jax.transfer.extract import extract_features
from tests.commands import SMALL

RECIPE = """
from configs import quickstart
from focalnet_jax.config import default_config


def get_config(variant):
    config = default_config("toy")
    given = quickstart.get_config(variant).to_dict()
    del given["data"]["held_out"]
    config.update(given)
    config.task = "toy"
    return config
"""


class Toy(Classification):
    """Classification that adds nothing to the banner."""

    name = "toy"

    def banner(self):
        """As `Task` has it."""
        return {}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Flags of a recipe of a task that lacks a key of classification."""

    def module(name, **contents):
        made = ModuleType(f"focalnet_jax.{name}")
        vars(made).update({key: value for key, value in contents.items() if not key.startswith("__")})
        monkeypatch.setitem(sys.modules, made.__name__, made)

    def add_keys(config):
        settings.add_keys(config)
        del config.data.held_out

    own = {key: check for key, check in settings.CHECKS.items() if key != "data.held_out"}
    module("settings.toy", **vars(settings) | {"add_keys": add_keys, "CHECKS": own})
    module("tasks.toy")
    provided = {"make_task": Toy.of, "evaluated_config": lambda config, stored, named: config}
    module("tasks.toy.kind", **vars(kind) | provided)
    for place in (focalnet_jax.settings, focalnet_jax.settings.checks, focalnet_jax.training.resume):
        monkeypatch.setattr(place, "TASKS", ("classification", "toy"))
    (tmp_path / "toy.py").write_text(RECIPE)
    monkeypatch.syspath_prepend(".")
    return [str(tmp_path / "toy.py"), [*SMALL[1:], "--config.total_steps=2"]]


def test_another_task_is_trained_and_evaluated_and_other_commands_name_it(toy, tmp_path, capsys):
    config, run = load_config(*toy), tmp_path / "run"
    assert train(config, run) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if " " in line)
    assert rows["model"].endswith("float32")
    assert rows["data"] == "digits: 1347 to train on, 450 to evaluate"
    evaluated = evaluate_checkpoint(config, str(run))
    trained = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert evaluated["loss"] == pytest.approx(trained["eval/loss"])
    with pytest.raises(UserError, match="transfer needs a recipe for classification; this recipe is for toy"):
        extract_features(config, str(run))
