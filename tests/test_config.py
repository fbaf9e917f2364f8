"""Every recipe builds a model, overrides are converted to the right types, and mistakes are reported."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import pytest

from focalnet_jax.config import model_config, replaced, to_json
from focalnet_jax.errors import UserError
from focalnet_jax.model import list_models, summarize
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.tasks import task_kind
from focalnet_jax.training.stored_config import differences

RECIPES = sorted(Path("configs").glob("*.py"))
SHORT = [name.removeprefix("focalnet_") for name in list_models()]
PATHS = ["--config.data.path=somewhere", "--config.init_from=somewhere"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_a_reader_needs(recipe):
    docstring = recipe.read_text().split('"""')[1]
    for part in ("Source:", "Command:", "Hardware:", "Cost:", "Target", "Obtained:"):
        assert part in docstring, part


@pytest.mark.parametrize(
    "recipe", [path for path in RECIPES if "quickstart" not in path.stem], ids=lambda path: path.stem
)
@pytest.mark.parametrize("name", SHORT)
def test_every_recipe_builds_for_every_model(recipe, name):
    config = load_config(f"{recipe}:{name}", PATHS)
    assert config.model.name == f"focalnet_{name}"
    config = replaced(config, {"model.num_classes": 7, "data.image_size": 64})
    assert summarize(model_config(config), config.data.image_size).rows[-1].shape == (7,)


def test_options_of_a_variant_combine():
    config = load_config("configs/finetune_imagenet1k.py:large_fl3,384", PATHS)
    assert (config.model.name, config.data.image_size) == ("focalnet_large_fl3", 384)


@pytest.mark.parametrize(
    ("variant", "millions"),  # millions of parameters in tables 3, 2 and 12 of the paper
    [
        ("tiny_srf,overlapped,deeper", 25.1),
        ("small_srf,overlapped,deeper", 38.2),
        ("base_srf,overlapped,deeper", 85.1),
        ("tiny_srf,overlapped", 30.4),
        ("small_srf,overlapped", 51.8),
        ("base_srf,overlapped", 91.6),
        ("tiny_lrf,pooling", 28.3),
    ],
)
def test_what_the_paper_varies_has_its_size(variant, millions):
    config = load_config(f"configs/imagenet1k.py:{variant}", PATHS)
    assert round(sum(row.params for row in summarize(model_config(config), 224).rows) / 1e6, 1) == millions


def test_what_the_paper_varies_goes_by_name_and_combines():
    plain = model_config(load_config("configs/imagenet1k.py:tiny_lrf", PATHS))
    for name, field in (("additive", "use_modulation"), ("pooling", "use_depthwise_conv")):
        config = load_config(f"configs/imagenet1k.py:tiny_lrf,no_gates,{name}", PATHS)
        assert model_config(config) == dataclasses.replace(plain, use_gates=False, **{field: False})
    with pytest.raises(UserError, match="expected tiny, small or base"):
        load_config("configs/imagenet1k.py:large_fl3,deeper", PATHS)


def test_a_large_backbone_of_segmentation_has_the_windows_of_its_weights():
    config = load_config("configs/upernet_ade20k.py:large_fl4", PATHS)
    assert (config.model.focal_windows, config.data.image_size, config.augment.box) == (3, 640, (2560, 640))
    model = model_config(config)
    assert model.kernel_sizes(0) == (3, 5, 7, 9)
    task = task_kind("segmentation").make_task(config, evaluated=False)
    rows = {row.name: row for row in task.summarize().rows}
    assert rows["stage 3"].shape == (20, 20, 1536)
    assert rows["decode head"].shape == (160, 160, 150)


def test_overrides_take_the_type_of_their_key():
    config = load_config(
        "configs/quickstart.py",
        [
            "--config.model.depths=(1,2)",
            "--config.data.path=2024",
            "--config.optimizer.b1",
            "0.8",
            "--config.augment.flip=1",
            "--config.model.scan_blocks=false",
            "--config.eval_every_epochs=none",
            "--config.remat=none",
        ],
    )
    assert config.remat == "none"
    assert config.model.depths == (1, 2)
    assert config.data.path == "2024"
    assert config.optimizer.b1 == 0.8
    assert config.augment.flip == 1.0
    assert config.model.scan_blocks is False
    assert config.eval_every_epochs is None


def test_a_duration_named_on_the_command_line_replaces_the_other_unit():
    config = load_config("configs/quickstart.py", ["--config.total_steps=7"])
    assert (config.total_steps, config.total_epochs) == (7, None)
    config = load_config("configs/imagenet1k.py:smoke", ["--config.total_epochs=2"])
    assert (config.total_steps, config.total_epochs) == (None, 2.0)


START = "from focalnet_jax.config import default_config\n\ndef get_config(variant):\n    c = default_config()\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import json\n\njson.lods\n", "mine.py:3 fails: AttributeError"),
        ("import json\n\njson.(\n", "mine.py:3 fails: SyntaxError"),
        ("def get_config():\n    pass\n", "fails: TypeError"),
        ("def get_config(variant):\n    pass\n", "returns a config"),
        (START + "    c.batch_sise = 3\n    return c\n", "batch_size"),
        (START + "    c.optimizer.weight_decoy = 3\n    return c\n", "weight_decay"),
        (START + "    c.batch_size = 'many'\n    return c\n", "mine.py:5 fails: TypeError"),
        (START + "    c.unlock()\n    del c.augment.flip\n    return c\n", "lacks the keys augment.flip"),
    ],
)
def test_a_config_file_that_fails_names_the_line(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(str(tmp_path / "mine.py"))
    assert message in str(caught.value)


def test_a_stored_config_is_compared_in_what_matters():
    stored = json.loads(to_json(load_config("configs/quickstart.py")))
    assert stored["model"]["name"] == "focalnet_tiny_srf"
    same = load_config("configs/quickstart.py", ["--config.log_every_steps=3", "--config.mesh.data=2"])
    assert differences(same, stored) == []
    other = load_config("configs/quickstart.py", ["--config.seed=3", "--config.model.depths=(1,1,1)"])
    assert differences(other, stored) == [
        "model.depths was [1, 2, 1] and is now [1, 1, 1]",
        "seed was 0 and is now 3",
    ]


def test_a_key_that_a_stored_config_lacks_means_its_default():
    config = load_config("configs/quickstart.py")
    older = json.loads(to_json(config))
    del older["ema_decay"], older["health"]["spike_factor"]
    assert differences(config, older) == []
    other = load_config("configs/quickstart.py", ["--config.ema_decay=0.5"])
    assert differences(other, older) == ["ema_decay was 0.0 and is now 0.5"]
    with pytest.raises(UserError, match=r"^the stored config of the run is damaged: health is 3; expected an object"):
        differences(config, older | {"health": 3})


def test_computation_is_on_the_platform_tests_are_for():
    assert jax.default_backend() == "cpu"
    assert jax.device_count() == 8


@pytest.mark.parametrize("text", ["{1: 2}", "{}", "({1: 2},)", "{1}", "1j", "b'a'"])
@pytest.mark.parametrize("key", ["model.mlp_ratio", "augment.crop_scale", "seed", "model.depths"])
def test_what_a_config_cannot_hold_is_refused(key, text):
    with pytest.raises(UserError, match=re.escape(f"--config.{key}={text}: expected")):
        load_config("configs/quickstart.py", [f"--config.{key}={text}"])


@pytest.mark.parametrize("key", ["augment.mixup", "seed", "optimizer.b1", "keep_latest"])
def test_a_config_file_that_takes_away_a_value_that_is_needed_is_refused(tmp_path, key):
    (tmp_path / "recipe.py").write_text(
        "from focalnet_jax.config import default_config\n\n\ndef get_config(variant):\n    config = default_config()\n"
        f"    config.{key} = None\n    return config\n"
    )
    with pytest.raises(UserError, match=f"{key}=None: expected a value, such as the default"):
        load_config(str(tmp_path / "recipe.py"))


@pytest.mark.parametrize("key", ["seed", "augment.mixup", "schedule.learning_rate", "data.image_size", "total_epochs"])
def test_a_number_that_no_float_can_hold_is_refused(key):
    with pytest.raises(UserError, match=re.escape(f"{key}={'9' * 400}: expected")):
        load_config("configs/quickstart.py", [f"--config.{key}={'9' * 400}"])


@pytest.mark.parametrize(("text", "kept"), [("0.5", 0.5), ("a", None)])
def test_an_override_has_the_type_of_the_default_where_the_recipe_sets_none(text, kept, tmp_path):
    recipe = tmp_path / "recipe.py"
    lines = ["from focalnet_jax.config import default_config", "def get_config(variant):"]
    lines += ["    config = default_config()", "    config.data.class_balance = None", "    return config"]
    recipe.write_text("\n".join(lines))
    overrides = [f"--config.data.class_balance={text}"]
    if kept is None:
        with pytest.raises(UserError, match="class_balance=a: expected a number"):
            load_config(str(recipe), overrides)
    else:
        assert load_config(str(recipe), overrides).data.class_balance == kept


@pytest.mark.parametrize("task", ["None", "'clasification'"])
def test_a_recipe_of_an_unknown_task_is_refused_with_the_known_ones(task, tmp_path):
    recipe = tmp_path / "recipe.py"
    lines = ["from focalnet_jax.config import default_config", "def get_config(variant):"]
    lines += ["    config = default_config()", f"    config.task = {task}", "    return config"]
    recipe.write_text("\n".join(lines))
    with pytest.raises(UserError, match="classification"):
        load_config(str(recipe))


@pytest.mark.parametrize("task", ["detection", "clasification", "none"])
def test_a_recipe_keeps_its_task(task):
    with pytest.raises(UserError, match=f"--config.task={task}: the recipe is for classification"):
        load_config("configs/quickstart.py", [f"--config.task={task}"])
    assert load_config("configs/quickstart.py", ["--config.task=classification"]).task == "classification"
