"""Automatic settings are chosen once, by the machine and the data, and do not change afterwards."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import jax
import pytest

from focalnet_jax.aot.compilation import lower_step
from focalnet_jax.config import flatten, to_json
from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.write import write_weights
from focalnet_jax.distributed.mesh import make_mesh
from focalnet_jax.errors import UserError
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.settings import MAIN
from focalnet_jax.training import resolve as choices
from focalnet_jax.training.data import open_eval_data
from focalnet_jax.training.resolve import has_bfloat16, resolve
from focalnet_jax.training.run import set_up
from focalnet_jax.training.stored_config import differences, with_stored
from tests.commands import SMALL, metrics, run
from tests.convert.golden_files import GOLDEN
from tests.convert.random_weights import weights_of
from tests.specs import open_task

AUTO = "--config.precision=auto"
MESH = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (dict(platform="tpu", device_kind="TPU v5 lite"), True),
        (dict(platform="gpu", device_kind="NVIDIA A100-SXM4-40GB", compute_capability="8.0"), True),
        (dict(platform="gpu", device_kind="NVIDIA GeForce RTX 4090", compute_capability="8.9"), True),
        (dict(platform="gpu", device_kind="NVIDIA B200", compute_capability="10.0"), True),
        (dict(platform="gpu", device_kind="Tesla T4", compute_capability="7.5"), False),
        (dict(platform="gpu", device_kind="Tesla V100-SXM2-16GB", compute_capability="7.0"), False),
        (dict(platform="gpu", device_kind="NVIDIA H100 80GB HBM3"), True),  # like the device of aot
        (dict(platform="gpu", device_kind="something", compute_capability="gfx"), False),
        (dict(platform="cpu", device_kind="cpu"), False),
    ],
)
def test_bfloat16_is_for_devices_that_have_it(device, expected):
    assert has_bfloat16(SimpleNamespace(**device)) is expected


def test_recipes_compute_in_float32_on_cpus_and_in_bfloat16_on_tpus(capsys):
    config = load_config("configs/imagenet1k.py", ["--config.data.path=none"])
    assert config.precision == "auto"
    assert resolve(config, MESH).precision == "float32"
    assert capsys.readouterr().out == "chosen     precision=float32\n"
    tpu = SimpleNamespace(devices=SimpleNamespace(flat=[SimpleNamespace(platform="tpu")]))
    assert resolve(config, tpu).precision == "bfloat16"


def test_what_a_user_states_is_not_chosen(capsys):
    config = load_config("configs/imagenet1k.py", ["--config.data.path=none", "--config.precision=bfloat16"])
    assert flatten(resolve(config, MESH)) == flatten(config)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_what_is_stored_is_no_difference_to_what_is_left_open(stored):
    before = json.loads(to_json(load_config("configs/quickstart.py", [f"--config.precision={stored}"])))
    config = load_config("configs/quickstart.py", [AUTO])
    assert differences(config, before) == []
    assert with_stored(config, before).precision == stored
    stated = load_config("configs/quickstart.py", ["--config.precision=float32"])
    assert bool(differences(stated, before)) == (stored == "bfloat16")


def test_a_run_keeps_the_precision_it_began_with(tmp_path):
    begun = [*SMALL, "--config.total_steps=2", "--config.model.depths=(1,)"]
    done = run("train.py", *begun, "--config.precision=bfloat16", "--workdir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning: precision=bfloat16 on a CPU takes about twice the time" in done.stderr
    again = run("train.py", *begun, AUTO, "--workdir", tmp_path)
    assert (again.returncode, "already" in again.stdout) == (0, True)
    assert json.loads((tmp_path / "config.json").read_text())["precision"] == "bfloat16"
    measured = run("eval.py", *begun, AUTO, "--checkpoint", tmp_path)
    assert json.loads(measured.stdout.splitlines()[-1])["loss"] == pytest.approx(metrics(tmp_path)[-1]["eval/loss"])


def test_what_is_chosen_is_stored(tmp_path):
    chosen = set_up(load_config("configs/quickstart.py", [*SMALL[1:], AUTO]), tmp_path).config
    assert chosen.precision == json.loads((tmp_path / "config.json").read_text())["precision"] == "float32"


def test_the_message_about_a_value_that_may_be_left_to_the_machine_says_so():
    with pytest.raises(UserError, match="expected an integer such as 64 or auto"):
        load_config("configs/quickstart.py", ["--config.batch_size=many"])


@pytest.mark.parametrize(("cores", "threads"), [(2, 2), (1, 1), (224, 16)])
def test_the_number_of_reading_threads_is_that_of_the_cores(monkeypatch, cores, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    config = load_config("configs/imagenet1k.py", ["--config.data.path=none"])
    assert choices.reader_threads(config) == threads
    among = load_config("configs/imagenet1k.py", ["--config.data.path=none", "--config.data.workers=8"])
    assert choices.reader_threads(among) == max(min(cores // 8, 16), 1)
    stated = load_config("configs/imagenet1k.py", ["--config.data.path=none", "--config.data.threads=3"])
    assert choices.reader_threads(stated) == 3


def test_evaluation_on_a_cpu_takes_fewer_images_at_once_than_a_recipe_trains_with():
    def batch_size(mesh, *overrides):
        config = load_config("configs/quickstart.py", [*SMALL[1:], "--config.batch_size=1024", *overrides])
        return open_eval_data(config, mesh, open_task(config))[MAIN].batch_size

    assert batch_size(MESH) == 64
    three = make_mesh({"data": 3, "fsdp": 1, "tensor": 1}, jax.devices()[:3])
    assert batch_size(three, "--config.batch_size=1023") == 63
    assert batch_size(MESH, "--config.eval_batch_size=512") == 512


def test_a_slow_step_of_a_cpu_does_not_end_its_run():
    config = load_config("configs/quickstart.py")
    assert choices.watchdog_seconds(config, MESH) == 14400
    stated = load_config("configs/quickstart.py", ["--config.health.watchdog_seconds=60"])
    assert choices.watchdog_seconds(stated, MESH) == 60


def test_a_step_can_be_compiled_without_images_at_a_rate_chosen_by_the_batch():
    stated = ["--config.batch_size=16", "--config.model.num_classes=5", "--config.model.depths=(1,)"]
    config = resolve(load_config("configs/own_folder.py", stated, optional=["data.path"]), MESH)
    assert config.schedule.learning_rate == 5e-4
    assert lower_step(config, MESH, "train").as_text()


class Folders(list):
    """A source with the given classes, of whose examples only the number matters."""

    def __init__(self, *class_names):
        super().__init__(range(40))
        self.class_names = class_names


@pytest.mark.parametrize(
    ("names", "head"),
    [
        (("Siamese_cat", "APPLE"), "keep"),
        (("apple", "Siamese cat"), "keep"),
        (("apple", "dog"), "drop"),
        (("apple", "Siamese cat", "dog"), "drop"),
        (("0", "1"), "drop"),
    ],
)
def test_a_classifier_is_kept_where_its_classes_are_those_of_the_data_by_name(names, head, tmp_path):
    weights = replace(weights_of(num_classes=2), info=WeightsInfo(("Siamese cat", "apple")))
    write_weights(weights, tmp_path / "weights", format="huggingface")
    config = load_config(
        "configs/own_folder.py", ["--config.data.path=none", f"--config.init_from={tmp_path / 'weights'}"]
    )
    assert resolve(config, MESH, Folders(*names)).init_head == head


@pytest.mark.parametrize("evaluated", [True, False])
def test_the_config_gives_the_options_that_shapes_of_weights_do_not_determine(evaluated):
    weights, source = GOLDEN / "timm_lrf.safetensors", None if evaluated else Folders("apple", "dog")

    def resolved(*overrides):
        given = () if evaluated else (f"--config.init_from={weights}", "--config.init_head=drop")
        config = load_config("configs/own_folder.py", ["--config.data.path=none", *given, *overrides])
        return resolve(config, MESH, source, str(weights) if evaluated else None).model

    with pytest.raises(UserError, match=r"give --config\.model\.normalize_modulator=false, or true, as"):
        resolved()
    for value in (True, False):
        found = resolved(f"--config.model.normalize_modulator={value}")
        assert (found.embed_dim, found.depths, found.normalize_modulator) == (8, (1, 2), value)
    shape = ["--config.model.name=focalnet_tiny_lrf", "--config.model.embed_dim=8", "--config.model.depths=(1,2)"]
    assert resolved(*shape).name == "focalnet_tiny_lrf"  # a complete model, with the variant's options
