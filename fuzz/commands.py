"""Fuzzes the command lines of every command, through its `main` and the error handling of `run_command`."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from focalnet_jax.config import default_config, to_json
from focalnet_jax.convert.write import write_weights
from fuzz.mutations import Rng, dump_json, mutate_bytes, mutate_json, pick
from fuzz.preparing import explained, stay_in_process
from fuzz.runner import Family, WrongAnswerError
from fuzz.weights import random_weights

_NUMBERS = ("0", "1", "2", "-1", "1.5", "x", "", "1e9", "999999999999", "nan", "١", "0x1")
_WORDS = (
    "",
    "a",
    "timm",
    "orbax",
    "focalnet_tiny_srf",
    "focalnet_tiny",
    "use_postln=true",
    "use_postln=maybe",
    "=",
)
_WEIGHTS = (
    "--checkpoint PATH {files}/weights.safetensors",
    "--option WORD use_postln=false",
    "--option WORD normalize_modulator=false",
)
_CONFIG = ("--config CONFIG {files}/recipe.py", "OVERRIDE --config.seed=1", "OVERRIDE --config.data.eval_split=val")
# Command: its module, and one line per argument with its flag (if it has one), the kind of its value (see `_value`) and
# a valid value.
_GRAMMAR: dict[str, tuple[str, tuple[str, ...]]] = {
    "train": ("train", (*_CONFIG, "--workdir PATH {new}/run", "--max-restarts NUMBER 0")),
    "eval": ("eval", (*_CONFIG, "--checkpoint PATH {run}")),
    "predict": ("predict", ("PATH {files}/images", *_WEIGHTS, "--topk NUMBER 2", "--image-size NUMBER 32", "--json ")),
    "visualize": (
        "visualize.__main__",
        (*_WEIGHTS, "--images PATH {files}/images", "--out NEW {new}/drawn", "--size NUMBER 32", "--stage NUMBER 1"),
    ),
    "convert": (
        "convert.__main__",
        (
            *("PATH {files}/weights.safetensors", "NEW {new}/new.safetensors", "--to WORD microsoft", *_WEIGHTS[1:]),
            *("--dtype WORD float32", "--head WORD keep"),
        ),
    ),
    "export": (
        "export",
        ("PATH {files}/weights.safetensors", "NEW {new}/new.stablehlo", *_WEIGHTS[1:], "--image-size NUMBER 32"),
    ),
    "transfer": ("transfer.__main__", ("WORD knn", *_CONFIG, *_WEIGHTS, "--shots WORD 1,2")),
    "sweep": ("sweep.__main__", (*_CONFIG, "--workdir PATH {new}/runs")),
    "report": ("report.__main__", ("PATH {run}", "PATH {run}", "--out NEW {new}/report.html", "--overwrite ")),
    "data.prepare": (
        "data.prepare.__main__",
        ("KIND imagefolder", "--source PATH {files}/images", "--out NEW {new}/data", "--held-out NUMBER 0.5"),
    ),
    "data.show": ("programs.show", (*_CONFIG, "--out NEW {new}/shown.png", "--step NUMBER 1", "--images NUMBER 2")),
    "checkpoint": ("checkpoint.__main__", ("ACTION list", "PATH {run}", "NUMBER 7")),
    "aot": ("aot.__main__", (*_CONFIG, "--topology WORD v5e:2x2", "--slices NUMBER 1", "--step WORD eval")),
    "demo": ("demo.__main__", ("--checkpoint MISSING {run}", "--port NUMBER 0", "--topk NUMBER 2", "--host WORD a")),
    "launch": ("launch.__main__", ("--processes WORD 0", "--devices-per-process NUMBER 1")),
}
# Commands that would run for a long time or forever get an additional argument that must be invalid.
_LONG = dict.fromkeys(("train", "sweep", "eval", "aot", "transfer"), "--config.batch_size=0") | {
    "data.show": "--config.data.image_size=0"
}
_RECIPE = """from focalnet_jax.config import default_config

def get_config(variant):
    config = default_config()
    config.total_steps = 1
    config.model.embed_dim = 8
    config.model.depths = (1, 1)
    return config
"""
_STRAY = ("--help", "--unknown", "--", "-x", "é", "-", "--config.")
_KINDS = ("imagefolder", "imagenet1k", "imagenet22k", "tfrecord", "parquet", "ade20k", "")
_ACTIONS = ("list", "verify", "diff", "prune", "", "--help")


@dataclass(frozen=True)
class Mains:
    """The `main` function of every command, and the folder with the files that command lines name."""

    functions: dict[str, Callable[[list[str]], int | None]]
    files: Path


def prepare(folder: Path) -> Mains:
    """Returns the commands and a folder with small files of every kind."""
    stay_in_process()
    files = folder / "files"
    if not files.exists():
        files.mkdir()
        write_weights(random_weights(), files / "weights.safetensors", format="timm")
        for split in ("train", "val"):
            for label in ("a", "b"):
                (files / "images" / split / label).mkdir(parents=True)
                Image.new("RGB", (20, 20)).save(files / "images" / split / label / "0.png")
        (files / "garbage.pth").write_bytes(b"PK\3\4garbage")
        (files / "text.txt").write_text("a\nb\n")
        (files / "empty").mkdir()
        run = files / "run"
        (run / "checkpoints" / "7").mkdir(parents=True)
        (run / "config.json").write_text(to_json(default_config()))
        rows = [{"step": step, "train/loss": 1 / step, "eval/top1": 10.0 * step} for step in range(1, 9)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (files / "recipe.py").write_text(_RECIPE)
    modules = {name: importlib.import_module(f"focalnet_jax.{module}") for name, (module, _) in _GRAMMAR.items()}
    return Mains({name: module.main for name, module in modules.items()}, files)


def case(mains: Mains, rng: Rng, folder: Path) -> None:
    """Runs one command with a random command line."""
    name = pick(rng, mains.functions)
    run = _changed_run(mains.files / "run", rng, folder / "run")
    arguments = _arguments(name, mains.files, rng, folder, run)
    (folder / "command.txt").write_text(f"{name} {arguments!r}".encode(errors="backslashreplace").decode())
    before = {path.name for path in mains.files.iterdir()}
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), explained():
            mains.functions[name](arguments)
    except SystemExit as ended:
        if ended.code not in (0, None) or not {"--help", "-h"} & set(arguments):
            raise WrongAnswerError(f"it exits with {ended.code}") from ended
    finally:
        os.chdir("/")
    if before != {path.name for path in mains.files.iterdir()}:
        raise WrongAnswerError("the command changed or removed its input")


def _arguments(name: str, files: Path, rng: Rng, folder: Path, run: Path) -> list[str]:
    """Returns a random command line of a command, with arguments omitted, repeated, invalid or reordered."""
    given: list[str] = []
    pieces = list(_GRAMMAR[name][1])
    if rng.random() < 0.3:
        pieces = [str(piece) for piece in rng.permutation(pieces)]
    wrong = rng.random() * 0.4
    for piece in pieces:
        *flag, kind, fits = [""] * (piece.count(" ") == 0) + piece.split(" ")
        for _ in range(pick(rng, (0, 2)) if rng.random() < wrong / 2 else 1):
            value = fits.format(files=files, new=folder, run=run)
            if rng.random() < wrong:
                value = _value(kind, files, rng, folder, run)
            given += [*flag, *([value] if kind.isupper() else [kind])]
    if rng.random() < wrong / 2:
        given.insert(int(rng.integers(len(given) + 1)), pick(rng, _STRAY))
    return given + ([_LONG[name]] if name in _LONG else [])


def _value(kind: str, files: Path, rng: Rng, folder: Path, run: Path) -> str:
    match kind:
        case "PATH":
            known = sorted(str(each) for each in files.iterdir())
            return pick(rng, (*known, str(run), str(run / "checkpoints"), str(folder / "no"), "", "x" * 300))
        case "MISSING":
            return pick(rng, (str(folder / "missing"), str(files / "garbage.pth"), "", str(run)))
        case "NEW":
            return str(folder / pick(rng, ("new", "new.png", "new.safetensors", "new.html", "a/b/new", "x" * 300)))
        case "CONFIG":
            recipe = str(files / "recipe.py")
            return pick(rng, (recipe, f"{recipe}:x", str(files / "text.txt"), "no.py", "configs/quickstart.py", ""))
        case "OVERRIDE":
            key = pick(rng, ("data.source", "data.path", "data.eval_split", "batch_size", "model.name", "seed", "nope"))
            return f"--config.{key}={pick(rng, (*_NUMBERS, *_WORDS, str(files / 'images'), 'folder', 'tfds'))}"
        case "NUMBER":
            return pick(rng, _NUMBERS)
        case "KIND":
            return pick(rng, _KINDS)
        case "ACTION":
            return pick(rng, _ACTIONS)
    return pick(rng, (*_WORDS, "float16", "knn", "1,2", "0,0", "v5e:2x2", "cpu", "keep"))


def _changed_run(run: Path, rng: Rng, path: Path) -> Path:
    """Returns a workdir in which metrics, config or checkpoint files are changed."""
    (path / "checkpoints" / "7").mkdir(parents=True)
    config = json.loads((run / "config.json").read_text())
    (path / "config.json").write_bytes(dump_json(mutate_json(config, rng) if rng.random() < 0.5 else config, rng))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [dump_json(mutate_json(row, rng) if rng.random() < 0.2 else row, rng) for row in rows]
    (path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    if rng.random() < 0.5:
        for name in ("metadata", "_CHECKPOINT_METADATA", "integrity.json", "manifest.ocdbt"):
            (path / "checkpoints" / "7" / name).write_bytes(
                pick(rng, (b"", b"{}", b"[]", mutate_bytes(b'{"a": 1}', rng)))
            )
    return path


FAMILY = Family("commands", 800, prepare, case, seconds=60)
