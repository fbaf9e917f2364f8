"""Train with combinations of settings: python -m focalnet_jax.sweep --config FILE.py --workdir DIR --config.KEY=A,B.

A key may have several values, separated by commas. Every combination of values is a run, with the workdir
DIR/KEY=VALUE,KEY=VALUE. Runs are trained one after the other. The same command resumes a stopped sweep and skips
finished runs. At the end, the sweep prints a table of the results, writes them to DIR/sweep.json, and writes
DIR/report.html if matplotlib is installed. All settings are checked before the first run. A run that fails later, for
example because the batch is larger than the data set, does not end the sweep.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from focalnet_jax.errors import EXIT_PREEMPTED


def main(arguments: list[str]) -> int:
    """Parses flags, trains the runs, and prints the table.

    Returns:
      The exit code: 0 if all runs finished, 2 if any run ended because of a user's mistake, else 1. If SIGTERM or
      SIGINT stopped the sweep or a run: the exit code of that run, or 128 plus the signal's number if the code is 0.
    """
    from focalnet_jax.config import flatten, is_auto, model_config
    from focalnet_jax.errors import EXIT_FAILED, EXIT_USER_MISTAKE, UserError
    from focalnet_jax.programs.config_files import load_config
    from focalnet_jax.programs.flags import make_parser, parse_arguments, parse_workdir
    from focalnet_jax.system.children import Forwarder
    from focalnet_jax.system.files import check_folder, write_result
    from focalnet_jax.system.signals import handled

    parser = make_parser("sweep", __doc__)
    parser.add_argument("--config", required=True, metavar="FILE.py[:VARIANT]", help="a recipe, see configs/")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder for the workdirs of the runs")
    flags, overrides = parse_arguments(parser, arguments)
    folder, runs = parse_workdir(flags.workdir), combinations(overrides)
    check_folder(folder, "--workdir")
    if (folder / "metrics.jsonl").exists():
        raise UserError(f"--workdir {folder} is the workdir of a run; expected a folder for the workdirs of runs")
    # Reports all mistakes in settings before the first run.
    loaded = [load_config(flags.config, settings) for _, settings in runs]
    for config in loaded:
        if not is_auto(config, "model.name"):
            model_config(config)
    task = loaded[0].task
    configs = list(map(flatten, loaded))
    differing = [key for key in configs[0] if len({repr(config[key]) for config in configs}) > 1]
    results, forwarder = [], Forwarder()
    with handled((signal.SIGTERM, signal.SIGINT), forwarder.forward):  # so that the current run saves and stops
        for number, ((name, settings), config) in enumerate(zip(runs, configs, strict=True), 1):
            print(f"run {number}/{len(runs)}: {name}", flush=True)
            train = [sys.executable, "-m", "focalnet_jax.train"]
            status = forwarder.run([*train, "--config", flags.config, "--workdir", str(folder / name), *settings])
            if forwarder.received:
                return status or 128 + forwarder.received[-1]
            if status in _STOPPED:
                return status
            chosen = {key: config[key] for key in differing}
            results.append({"run": name, "settings": chosen, "status": status, **_outcome(folder / name, task)})
    write_result(folder / "sweep.json", json.dumps(results, indent=1) + "\n")
    print(table(results, task))
    if importlib.util.find_spec("matplotlib"):
        from focalnet_jax.report.__main__ import main as report

        drawn = [str(folder / result["run"]) for result in results if "step" in result]
        if drawn:
            report([*drawn, "--out", str(folder / "report.html"), "--overwrite"])
    known = (0, EXIT_FAILED, EXIT_USER_MISTAKE)
    return max(result["status"] if result["status"] in known else EXIT_FAILED for result in results)


def combinations(overrides: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Returns the name and the arguments of every run of a sweep. The last key changes fastest.

    Args:
      overrides: arguments such as `--config.KEY=A,B`.

    Raises:
      UserError: no key has several values, a value is given twice, or two runs would have the same name.
    """
    from focalnet_jax.errors import UserError

    choices: list[list[tuple[str, str | None]]] = []
    for argument in overrides:
        key, equals, text = argument.partition("=")
        values = split_values(text)
        if not key.startswith("--config.") or not equals or len(values) == 1:
            choices.append([(argument, None)])
            continue
        if len(set(values)) < len(values):
            raise UserError(f"{argument} has the same value twice: remove one of them")
        named = key.removeprefix("--config.")
        choices.append([(f"{key}={value}", f"{named}={value}") for value in values])
    if not any(len(values) > 1 for values in choices):
        raise UserError("no key has several values: add a key such as --config.schedule.learning_rate=1e-3,2e-3")
    runs = []
    for chosen in itertools.product(*choices):
        name = ",".join(named for _, named in chosen if named)
        runs.append((_file_name(name), [argument for argument, _ in chosen]))
    names = [name for name, _ in runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two runs would have the same workdir {min(twice)}: rename one of the paths in their settings")
    return runs


def _file_name(name: str) -> str:
    """Returns a valid file name: without slashes, and shortened if it has more than `_LONGEST_NAME` bytes."""
    name = name.replace("/", "_")
    if len(os.fsencode(name)) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME // 4]}...{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}"


def split_values(text: str) -> list[str]:
    """Splits a string at commas, except at commas in brackets."""
    values, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]


def table(results: Sequence[dict[str, Any]], task: str) -> str:
    """Returns a table of the runs of a task, the best run first."""
    from focalnet_jax.errors import EXIT_USER_MISTAKE
    from focalnet_jax.settings import settings_of

    metric = settings_of(task).BEST_METRIC
    title = dict(settings_of(task).HEADLINE)[metric]
    width = max(len(result["run"]) for result in results)
    lines = [f"{'run':<{width}}  {'step':>8}  {'loss':>8}  {'eval loss':>9}  {title:>7}  {'best':>7}"]
    for result in sorted(results, key=lambda result: -result.get(f"best_{metric}", -1)):
        if "step" not in result:
            how = "rejected" if result["status"] == EXIT_USER_MISTAKE else "failed before it logged anything"
            lines.append(f"{result['run']:<{width}}  {how}")
            continue
        cells = (
            f"{result['step']:>8}",
            *(f"{result[name]:>{wide}.4f}" if name in result else " " * wide for name, wide in _LOSSES),
            *(f"{result[name]:>5.2f} %" if name in result else " " * 7 for name in (metric, f"best_{metric}")),
        )
        lines.append(f"{result['run']:<{width}}  {'  '.join(cells)}{'  failed' if result['status'] else ''}")
    return "\n".join(lines)


_STOPPED = (EXIT_PREEMPTED, 128 + signal.SIGINT, 128 + signal.SIGTERM)
_LONGEST_NAME = 240  # bytes: file systems allow 255, and atomic writes add a suffix
_LOSSES = (("loss", 8), ("eval_loss", 9))


def _outcome(workdir: Path, task: str) -> dict[str, Any]:
    """Returns the last step and the last and best metrics of a run, or an empty dict if the run logged nothing."""
    from focalnet_jax.errors import UserError
    from focalnet_jax.report.runs import read_run
    from focalnet_jax.settings import MAIN, ranking_metric, settings_of

    try:
        curves = read_run(workdir).curves
    except UserError:
        return {}
    metric = settings_of(task).BEST_METRIC
    names = {"loss": "train/loss", "eval_loss": f"{MAIN}/loss", metric: ranking_metric(task)}
    last = {name: curves[metric][1][-1] for name, metric in names.items() if metric in curves}
    values = list(filter(math.isfinite, curves.get(ranking_metric(task), ((), ()))[1]))
    best = {f"best_{metric}": max(values)} if values else {}
    return {"step": max(steps[-1] for steps, _ in curves.values()), **last, **best}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries load prints no traceback
    from focalnet_jax.programs.run_command import run_command

    run_command(main)
