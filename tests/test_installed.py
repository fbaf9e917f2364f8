"""The installed package is complete: commands, recipes, benchmarks and version."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from focalnet_jax import __version__
from focalnet_jax.__main__ import main
from focalnet_jax.programs.commands import COMMANDS
from focalnet_jax.programs.config_files import load_config
from tests.commands import assert_one_line_mistake, run

FOCALNET = "from focalnet_jax.programs.commands import run; run()"


def test_versions_devices_and_missing_packages_are_printed():
    done = run("-m", "focalnet_jax")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"focalnet_jax {__version__}, Python ")
    assert "1 x cpu" in done.stdout
    assert "kernels for CPUs" in done.stdout
    assert "figures and videos  matplotlib " in done.stdout
    assert "None" not in done.stdout
    assert_one_line_mistake(run("-m", "focalnet_jax", "--versin"), "--versin")


def test_a_missing_compiler_is_reported(monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main([]) == 0
    assert "kernels for CPUs    no C++ compiler" in capsys.readouterr().out


def test_one_program_has_all_commands():
    for name in COMMANDS:
        spec = importlib.util.find_spec(f"focalnet_jax.{name}")
        assert spec, name
        runnable = f"focalnet_jax.{name}.__main__" if spec.submodule_search_locations else f"focalnet_jax.{name}"
        assert "run_command(main)" in Path(importlib.util.find_spec(runnable).origin).read_text(), name
    modules = [path for path in Path("focalnet_jax").rglob("*.py") if "\ndef main(arguments" in path.read_text()]
    assert len(modules) == len(COMMANDS) + 1  # and python -m focalnet_jax
    done = run("-c", FOCALNET)
    assert done.returncode == 0
    assert re.findall(r"^  ([a-z.]+) ", done.stdout, re.MULTILINE) == list(COMMANDS)
    assert run("-c", FOCALNET, "--version").stdout == f"focalnet_jax {__version__}\n"
    assert_one_line_mistake(run("-c", FOCALNET, "trian"), "Did you mean 'train'")
    helped = run("-c", FOCALNET, "convert", "--help")
    assert helped.returncode == 0
    assert helped.stdout.startswith("usage: focalnet convert [-h]")
    as_module = run("-m", "focalnet_jax.convert", "--help").stdout
    assert as_module.startswith("usage: python -m focalnet_jax.convert [-h]")
    assert (
        helped.stdout.partition("\n\n")[2] == as_module.partition("\n\n")[2]
    )  # everything except the name of the command


def test_help_shows_a_command_as_it_was_called():
    for name in ("train", "eval"):
        assert run(f"{name}.py", "--help").stdout.startswith(f"usage: python {name}.py [-h]")
        assert run("-c", FOCALNET, name, "--help").stdout.startswith(f"usage: focalnet {name} [-h]")
    assert run("-m", "benchmarks.programs", "--help").stdout.startswith("usage: programs.py [-h]")


@pytest.mark.parametrize(
    "module",
    [
        *(f"focalnet_jax.programs.{name}" for name in ("config_files", "flags", "run_command")),
        "focalnet_jax.launch",
        "focalnet_jax.data.prepare.__main__",
        "focalnet_jax.tasks.segmentation.sources",
        "focalnet_jax.tasks.segmentation.host",
    ],
)
def test_what_answers_at_once_or_reads_data_loads_no_jax(module):
    program = f"import sys, {module}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_the_package_gives_its_names_when_asked():
    program = "import focalnet_jax as f; print(*(getattr(f, name) for name in f.__all__)); f.no_such_name"
    done = run("-c", program)
    assert "function create_model" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("AttributeError")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("aggregation", ["--batch", "0"]),
        ("products", ["--batch", "0"]),
        ("cpu", ["--rounds", "0"]),
        ("cpu", ["--seconds", "nan"]),
        ("compile", ["--model", "nonsense"]),
        ("conversion", ["nonsense"]),
        ("depthwise", ["--batch"]),
        ("input", ["--images", "0"]),
        ("rounding", ["--shape", "8x8"]),
        ("rounding", ["--kernels", "4"]),
        ("rounding", ["--shape", "100000x1000x1000x1000"]),
        ("tpu_cost", ["--batch", "0"]),
        ("gpu_structure", ["--batch", "999999999999"]),
    ],
)
def test_a_mistake_in_a_benchmarks_command_is_one_line(name, arguments):
    done = run("-m", f"benchmarks.{name}", *arguments)
    assert_one_line_mistake(done, "--help explains")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--config.batch_size=3"], "--batch sets the images per chip"),
        (["--aggregation", "4", "--config.model.aggregation=xla"], "compiles both implementations"),
        (["--plain", "--config.model.use_gates=False"], "but this config sets use_gates=False"),
        (["--config.precision=float32"], "expected bfloat16"),
        (["--topology", "h100:1"], "expected a TPU such as v5e:2x2"),
        (["--block", "1", "--config.remat=foo"], "unknown remat policy 'foo'"),
        (["--model", ""], "expected a variant such as base_lrf"),
        (["--model", "focalnet_focalnet_base_lrf"], "unknown config variant 'focalnet_focalnet_base_lrf'"),
        (["--config.mesh.fsdp=0"], "only one chip is supported here"),
        (["--model", "pooling", "--aggregation", "1"], "but this config sets use_depthwise_conv=False"),
        (["--config.data.image_size=100000000"], "expected 1 to 16384 pixels"),
    ],
)
def test_what_has_no_cost_on_a_tpu_is_refused_before_anything_is_compiled(arguments, complaint):
    assert_one_line_mistake(run("-m", "benchmarks.tpu_cost", *arguments), complaint)


def test_a_map_too_wide_for_fast_memory_has_no_rounding():
    done = run("-m", "benchmarks.rounding", "--shape", "1x1200x1200x1", "--kernels", "9")
    assert_one_line_mistake(done, "give fewer columns")


def test_benchmarks_run_by_their_path_too():
    for path in Path("benchmarks").glob("*.py"):
        before, uses_another, after = path.read_text().partition("from benchmarks")
        assert not uses_another or "__main__" not in after or "sys.path.insert(0," in before, path
        assert "def main(" not in before + after or "run_command(main)" in before + after, (
            path
        )  # reports mistakes in one line
    assert run("benchmarks/cpu.py", "--help").returncode == 0


def test_a_wheel_holds_every_module_the_recipes_and_what_they_read(tmp_path):
    tree, ignored = tmp_path / "tree", shutil.ignore_patterns("__pycache__")
    for name in ("focalnet_jax", "configs"):
        shutil.copytree(name, tree / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(name, tree / name)
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, tree]
    subprocess.run(wheel, check=True, timeout=120)
    (file,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (entries,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "focalnet = focalnet_jax.programs.commands:run" in archive.read(entries).decode()
        archive.extractall(tmp_path / "installed")
    there = {str(path.relative_to(tree)) for path in (tree / "focalnet_jax").rglob("*") if path.is_file()}
    recipes = {f"focalnet_jax/{path}" for path in Path("configs").glob("*.py")}
    assert held == there | recipes
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    load = "from focalnet_jax.programs.config_files import load_config"
    code = f"{load}; print(load_config('configs/quickstart.py').model.name)"
    env = {"PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == load_config("configs/quickstart.py").model.name, done.stderr


@pytest.mark.parametrize("extra", ["tpu", "cuda", "convert", "viz", "demo", "examples", "docs"])
def test_every_group_of_optional_packages_is_declared(extra):
    assert tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
