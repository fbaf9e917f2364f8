"""The notebooks run from top to bottom, and their results agree with their texts."""

import base64
import io
import json
import os
import re
import shlex
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from focalnet_jax.config import model_config
from focalnet_jax.model import summarize
from focalnet_jax.programs.config_files import load_config
from tests.quick import QUICK

# Optimisation levels: the lowest for little computation; level 1 trains as fast as the highest level.
LITTLE, SOME = QUICK, QUICK.replace("level=0", "level=1")
FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = ("aot", "convert", "detection", "finetune", "modulation", "segmentation")


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.fixture
def executed(tmp_path):
    """Executes a notebook in an empty folder, and checks that it leaves no files there or in the temporary folder."""

    def execute(name, flags):
        here, there = tmp_path / "here", tmp_path / "there"
        here.mkdir()
        there.mkdir()
        kept = {"XLA_FLAGS": flags, "TMPDIR": str(there), "IPYTHONDIR": str(tmp_path)}
        client = NotebookClient(read(name), timeout=900, resources={"metadata": {"path": str(here)}})
        done = client.execute(env=os.environ | kept)
        assert not list(here.iterdir())
        assert not list(there.glob("tmp*"))
        return done

    return execute


def printed(notebook, cell):
    """Returns what the cell with this id printed."""
    outputs = next(each.outputs for each in notebook.cells if each.id == cell)
    return "".join(output.text for output in outputs if output.output_type == "stream")


def colours(notebook, cell):
    """Returns the number of colours in the only figure of the cell with this id."""
    outputs = next(each.outputs for each in notebook.cells if each.id == cell)
    (drawn,) = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    picture = Image.open(io.BytesIO(base64.b64decode(drawn))).convert("RGB")
    return len(picture.getcolors(2**24))


def test_every_notebook_is_executed_here():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_kept_valid_and_without_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


def test_a_model_that_knows_digits_learns_another_question_from_few_pictures(executed):
    done = executed("finetune", LITTLE)
    assert float(re.search(r"best eval/top1 ([\d.]+) %", printed(done, "train-digits"))[1]) > 90
    result = json.loads(printed(done, "evaluate").splitlines()[-1])
    scratch = float(re.search(r"best eval/top1 ([\d.]+) %", printed(done, "scratch"))[1])
    assert result["examples"] == 450
    assert result["top1"] > 80  # 60 % by chance
    assert result["top1"] > scratch + 5
    for cell in ("curves", "write-images", "compare", "predict"):
        assert colours(done, cell) > 20


def test_a_model_finds_petals_that_a_threshold_does_not_find(executed):
    done = executed("segmentation", LITTLE)
    result = json.loads(printed(done, "evaluate").splitlines()[-1])
    threshold = float(re.search(r"mIoU ([\d.]+) %", printed(done, "threshold"))[1])
    assert result["examples"] == 18
    assert result["miou"] > threshold + 20
    shares = [float(share) for share in re.findall(r"([\d.]+)%", printed(done, "predict") + printed(done, "in-python"))]
    assert shares[1] == shares[2] < shares[0]  # background, petals, and petals in Python
    for cell in ("write", "batch", "predictions", "drawing"):
        assert colours(done, cell) > 20


def test_a_detector_learns_a_data_set_in_cocos_format_and_finds_objects_in_a_larger_image(executed):
    done = executed("detection", LITTLE)
    result = json.loads(printed(done, "evaluate").splitlines()[-1])
    assert result["examples"] == 40
    assert result["bbox_ap50"] > 60  # 90 in one run; fresh weights have less than 1
    found = [int(each) for each in re.findall(r"(\d+) (?:zero|one|four)", printed(done, "predict"))]
    every, shown = map(int, re.match(r"(\d+) detections, (\d+) with", printed(done, "read-json")).groups())
    assert 0 < sum(found) == shown <= every
    assert len(re.findall(r"^(zero|one|four) \d+% \[", printed(done, "in-python"), re.MULTILINE)) == 3
    for cell in ("batch", "predictions", "drawing"):
        assert colours(done, cell) > 20


def test_modulators_are_larger_where_the_digit_is(executed):
    done = executed("modulation", LITTLE)
    assert float(re.search(r"([\d.]+)% of 90", printed(done, "activation"))[1]) > 85
    counted = re.findall(r"modulator +([\d.]+) +([\d.]+)", printed(done, "inside"))
    assert len(counted) == 2
    for digit, around in counted:
        assert float(digit) > 1.2 * float(around)
    assert float(printed(done, "exact").split()[-1]) < 1e-4
    for cell in ("pictures", "picture-figure", "kernels", "field"):
        assert colours(done, cell) > 100


def test_weights_come_through_all_formats_to_the_last_bit(executed):
    done = executed("convert", LITTLE)
    assert re.findall(r"equal: (\w+)", printed(done, "equal")) == ["True"] * 4
    assert "error: the weights have 1000 classes, the model 5" in printed(done, "classes")
    assert "(768, 5)\nthe rest is as it was: True" in printed(done, "classes")
    larger, deeper = (float(number) for number in re.findall(r"differ by (\S+)", printed(done, "surgery")))
    assert larger < 1e-5 < deeper
    assert "2 focal levels in the weights and 1 in the model" in printed(done, "surgery")


def test_parts_need_less_memory_than_copies_and_the_kept_reports_are_read(executed):
    done = executed("aot", LITTLE)
    copies, parts = (int(size) for size in re.findall(r"(\d+) MB a device, sends", printed(done, "compare-here")))
    assert parts < copies / 2
    assert printed(done, "read").count("topology") == len(kept_reports())
    assert "without sending" in printed(done, "times")


def kept_reports():
    return [json.loads(line) for line in (FOLDER / "aot_reports.jsonl").read_text().splitlines()]


def test_the_kept_reports_are_of_the_commands_that_are_shown_and_of_these_models():
    text = next(cell.source for cell in read("aot").cells if cell.id == "read-here")
    commands = re.findall(r"^    python -m focalnet_jax.aot (.*)$", text.replace("\\\n", ""), re.MULTILINE)
    assert len(commands) == len(kept_reports())
    for command, report in zip(commands, kept_reports(), strict=True):
        given, recipe, wanted, topology, *overrides = shlex.split(command)
        assert (given, wanted, topology) == ("--config", "--topology", report["topology"])
        config = load_config(recipe, overrides, optional=["data.path"])
        assert (config.model.name, config.batch_size) == (report["model"], report["global_batch"])
        assert config.mesh.fsdp == report["mesh"]["fsdp"]
        macs = summarize(model_config(config), config.data.image_size).macs
        assert report["flops_per_step"] == 6 * macs * config.batch_size
