"""Draw runs: python -m focalnet_jax.report WORKDIR... [--out report.html].

One page that needs no other file: loss, accuracy, learning rate, gradient's norm, images a second and waiting for
input of all runs in the same axes, a table of what they came to (of images a second and of waiting the median), and the
settings they differ in. A name that ends in .png gets the curves alone. Runs may still go on.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What is drawn: of a panel the metrics, by the names of metrics.jsonl, and whether its scale is logarithmic.
PANELS: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("training loss", ("train/loss",), False),
    ("evaluation loss", ("eval/loss",), False),
    ("top-1 (solid, dot) and top-5 (dotted, cross), %", ("eval/top1", "eval/top5"), False),
    ("learning rate", ("train/learning_rate",), False),
    ("gradient's norm", ("train/grad_norm",), True),
    ("images/s", ("images_per_second",), False),
    ("time waiting for input", ("input_wait",), False),
    ("updates skipped", ("train/skipped",), False),
)
_MOST = 1500  # points of a curve: of more, each is the mean of several
_COLUMNS = 2


@dataclass(frozen=True)
class Run:
    """What a workdir tells: its name, settings by dotted key, and of each metric steps and values."""

    name: str
    settings: dict[str, Any]
    curves: dict[str, tuple[list[int], list[float]]]


def main(arguments: list[str]) -> int:
    """Parses flags, writes the report."""
    from focalnet_jax.command_line import make_parser
    from focalnet_jax.errors import UserError
    from focalnet_jax.files import write_whole

    parser = make_parser("report", __doc__)
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR")
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE", help=".html or .png: %(default)s"
    )
    flags = parser.parse_args(arguments)
    if flags.out.suffix.lower() not in (".html", ".png"):
        raise UserError(f"--out {flags.out}: expected a name that ends in .html or .png")
    try:
        import matplotlib  # noqa: F401 - what draws the curves
    except ImportError as error:
        raise UserError("a report needs matplotlib: pip install 'focalnet_jax[viz]'") from error
    runs = [read_run(workdir) for workdir in flags.workdirs]
    if len({run.name for run in runs}) < len(runs):  # their paths, as far as they differ
        whole = [workdir.resolve() for workdir in flags.workdirs]
        shared = os.path.commonpath(whole)
        runs = [replace(run, name=os.path.relpath(path, shared)) for path, run in zip(whole, runs, strict=True)]
    try:
        if flags.out.suffix.lower() == ".png":
            flags.out.write_bytes(_png(draw(runs)))
        else:
            write_whole(flags.out, page(runs))
    except OSError as error:
        raise UserError(f"cannot write --out {flags.out}: {error.strerror}") from error
    print(f"{flags.out}: {len(runs)} runs" if len(runs) > 1 else f"{flags.out}: {runs[0].name}")
    return 0


def read_run(workdir: Path) -> Run:
    """The run in a workdir.

    Raises:
      UserError: there is none, nothing is logged yet, or its config.json is damaged.
    """
    from ml_collections import ConfigDict

    from focalnet_jax.config import flatten
    from focalnet_jax.convert.files import read_json
    from focalnet_jax.errors import UserError

    metrics = workdir / "metrics.jsonl"
    try:
        lines = metrics.read_text(errors="replace").splitlines()
        config = workdir / "config.json"
        settings = flatten(ConfigDict(read_json(config))) if config.exists() else {}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{workdir} holds no run: there is no {metrics.name} in it") from error
    except OSError as error:
        raise UserError(f"cannot read {error.filename or workdir}: {error.strerror}") from error
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for line in lines:
        try:
            row = json.loads(line)
            step = int(row["step"])
        except (ValueError, TypeError, KeyError, RecursionError):  # of a run that is being written, or not a run's
            continue
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(step)
                values.append(float(value))
    if not curves:
        raise UserError(f"{workdir} has logged nothing yet")
    return Run(workdir.resolve().name, dict(settings), curves)


def draw(runs: Sequence[Run]) -> Figure:
    """All panels that any of the runs has something for, a colour a run."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    panels = [panel for panel in PANELS if any(name in run.curves for run in runs for name in panel[1])]
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(6.4 * _COLUMNS, 2.9 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for axis, (title, names, logarithmic) in zip(axes, panels, strict=False):
        for place, run in enumerate(runs):
            for name, style, point in zip(names, ("-", ":"), (".", "x"), strict=False):
                if name in run.curves:
                    steps, values = thinned(*run.curves[name])
                    label = run.name if name == names[0] else None
                    mark = point if len(steps) < 2 else None
                    axis.plot(steps, values, style, color=f"C{place % 10}", marker=mark, linewidth=1.2, label=label)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8, which="both")
        axis.grid(alpha=0.25)
        if logarithmic:
            axis.set_yscale("log")
        if names == ("input_wait",):
            axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    if len(runs) > 1:
        axes[0].legend(fontsize=8)
    return figure


def thinned(steps: Sequence[int], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most so many points, each the mean of as many neighbours."""
    every = -(-len(steps) // _MOST)
    parts = range(0, len(steps), every)
    return tuple([sum(of[at : at + every]) / len(of[at : at + every]) for at in parts] for of in (steps, values))


def page(runs: Sequence[Run]) -> str:
    """The report as HTML."""
    image = base64.b64encode(_png(draw(runs))).decode()
    title = html.escape(", ".join(run.name for run in runs))
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>",
        "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#222}"
        "table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;border-bottom:1px solid #ddd;"
        "text-align:left}td{font-variant-numeric:tabular-nums}img{max-width:100%}</style>",
        f"<h1>{title}</h1>",
        _table(["run", *_SUMMARY], [[run.name, *_summary(run).values()] for run in runs]),
        f'<img alt="curves of the runs" src="data:image/png;base64,{image}">',
    ]
    if differing := _differing(runs):
        rows = [[key, *(str(run.settings.get(key)) for run in runs)] for key in differing]
        parts += ["<h2>Settings that differ</h2>", _table(["key", *(run.name for run in runs)], rows)]
    return "\n".join(parts) + "\n"


_SUMMARY = ("model", "steps", "loss", "best top-1", "at step", "last top-1", "images/s, median", "waiting, median")


def _summary(run: Run) -> dict[str, str]:
    def last(name: str, form: str) -> str:
        return format(run.curves[name][1][-1], form) if name in run.curves else ""

    def middle(name: str, form: str) -> str:
        values = sorted(run.curves[name][1]) if name in run.curves else []
        return format(values[len(values) // 2], form) if values else ""

    tops = list(zip(*run.curves.get("eval/top1", ((), ())), strict=True))
    best = max(tops, key=lambda each: each[1], default=None)
    steps = max(steps[-1] for steps, _ in run.curves.values())
    values = (
        str(run.settings.get("model.name", "")),
        f"{steps} of {run.settings['total_steps']}" if run.settings.get("total_steps") else str(steps),
        last("train/loss", ".4f"),
        f"{best[1]:.2f} %" if best else "",
        str(best[0]) if best else "",
        f"{tops[-1][1]:.2f} %" if tops else "",
        middle("images_per_second", ".0f"),
        middle("input_wait", ".1%"),
    )
    return dict(zip(_SUMMARY, values, strict=True))


def _differing(runs: Sequence[Run]) -> list[str]:
    keys = sorted({key for run in runs for key in run.settings})
    return [key for key in keys if len({repr(run.settings.get(key)) for run in runs}) > 1]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _png(figure: Figure) -> bytes:
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=120)
    return written.getvalue()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries load is no traceback
    from focalnet_jax.command_line import run_command

    run_command(main)
