"""Draws the curves of runs in the same axes, and makes a page of the curves and of tables of the results."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from focalnet_jax.errors import UserError
from focalnet_jax.report.runs import RunLog, is_number
from focalnet_jax.settings import ranking_metric, settings_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS = 120  # per inch
_MOST = 1500  # points of a curve; longer curves are averaged
_COLUMNS = 2
_ALPHA = 0.75  # opacity, so that curves under others are visible
_COLOURS = 10  # number of colours in matplotlib's cycle; more runs use a colour map
_NAMED = 3  # largest number of runs named in the title of a page
_WIDTH = 190  # characters per line of the legend


Panel = tuple[str, tuple[str, ...], bool]  # title, names in metrics.jsonl, whether the scale is logarithmic
_MARKS = ("solid, dots", "dotted, crosses")  # how the first and the second metric of a panel are drawn


def panels(runs: Sequence[RunLog]) -> list[Panel]:
    """Returns the panels (losses, evaluation metrics, rates) for which any run has values."""
    tasks = [settings_of(task) for task in dict.fromkeys(run.task for run in runs)]
    headlines = dict.fromkeys(settings.HEADLINE for settings in tasks)
    found: list[Panel] = [("training loss", ("train/loss",), False)]
    names = {name for run in runs for name in run.curves}
    prefixes = sorted({name.rpartition("/")[0] for name in names if name.endswith("/loss")} - {"train", "eval"})
    for prefix in ("eval", *prefixes):
        of = "evaluation" if prefix == "eval" else prefix
        found.append((f"{of} loss", (f"{prefix}/loss",), False))
        for headline in headlines:
            present = [(f"{prefix}/{metric}", title) for metric, title in headline if f"{prefix}/{metric}" in names][:2]
            titles = [f"{title} ({mark})" for (_, title), mark in zip(present, _MARKS, strict=False)]
            title = " and ".join(titles if len(titles) > 1 else [title for _, title in present])
            title_prefix = "" if prefix == "eval" else f"{prefix}: "
            found.append((f"{title_prefix}{title}, %", tuple(name for name, _ in present), False))
    found += [
        ("learning rate", ("train/learning_rate",), False),
        ("gradient norm", ("train/grad_norm",), True),
        ("images/s", ("images_per_second",), False),
        ("time waiting for input", ("input_wait",), False),
        ("updates skipped", ("train/skipped",), False),
    ]
    return [panel for panel in found if names.intersection(panel[1])]


def draw(runs: Sequence[RunLog]) -> Figure:
    """Returns a figure of all panels for which any run has values, with one colour per run.

    Raises:
      UserError: no run has values for any panel.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import PercentFormatter

    shown = panels(runs)
    if not shown:
        names = ", ".join(run.name for run in runs[:_NAMED])
        raise UserError(f"{names}: metrics.jsonl has no metric of a run, such as train/loss; expected workdirs of runs")
    rows = -(-len(shown) // _COLUMNS)
    colours = _colours(len(runs))
    in_line = max(1, _WIDTH // (max(len(run.name) for run in runs) + 8))  # names in a line of the legend
    lines = -(-len(runs) // in_line) if len(runs) > 1 else 0
    figure = Figure(figsize=(6.4 * _COLUMNS, 2.9 * rows + 0.2 * lines), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for axis, (title, names, logarithmic) in zip(axes, shown, strict=False):
        for run, colour in zip(runs, colours, strict=True):
            for name, style, point in zip(names, ("-", ":"), (".", "x"), strict=False):
                if name in run.curves:
                    steps, values = thinned(*run.curves[name])
                    mark = point if len(names) > 1 or len(steps) < 2 else None
                    axis.plot(
                        steps, values, style, color=colour, alpha=_ALPHA, marker=mark, markersize=5, linewidth=1.2
                    )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8, which="both")
        axis.grid(alpha=0.25)
        if logarithmic:
            axis.set_yscale("log")
        if names == ("input_wait",):
            axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    if len(runs) > 1:
        handles = [Line2D([], [], color=colour, label=run.name) for run, colour in zip(runs, colours, strict=True)]
        legend = figure.legend(handles=handles, loc="outside upper center", ncols=min(in_line, len(runs)), fontsize=8)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a name with dollar signs is not a formula
    return figure


def _colours(count: int) -> list[Any]:
    """Returns `count` different colours."""
    from matplotlib import colormaps

    if count <= _COLOURS:
        return [f"C{index}" for index in range(count)]
    return [colormaps["turbo"](0.05 + 0.9 * index / (count - 1)) for index in range(count)]


def thinned(steps: Sequence[int], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Averages groups of neighbouring points of a curve, so that at most `_MOST` points are left."""
    every = -(-len(steps) // _MOST)
    parts = range(0, len(steps), every)
    return tuple([sum(of[at : at + every]) / len(of[at : at + every]) for at in parts] for of in (steps, values))


def page(runs: Sequence[RunLog]) -> str:
    """Returns the report as an HTML page."""
    from focalnet_jax.visualize.figures import as_png

    tasks = dict.fromkeys(run.task for run in runs)
    image = base64.b64encode(as_png(draw(runs), DOTS)).decode()
    title = html.escape(", ".join(run.name for run in runs) if len(runs) <= _NAMED else f"{len(runs)} runs")
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>",
        "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#222}"
        "table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;border-bottom:1px solid #ddd;"
        "text-align:left}td{font-variant-numeric:tabular-nums}img{max-width:100%}</style>",
        f"<h1>{title}</h1>",
        *(_summary_table([run for run in runs if run.task == task]) for task in tasks),
        f'<img alt="curves of the runs" src="data:image/png;base64,{image}">',
    ]
    if differing := _differing(runs):
        rows = [[key, *(str(run.settings.get(key)) for run in runs)] for key in differing]
        parts += ["<h2>Settings that differ</h2>", _table(["key", *(run.name for run in runs)], rows)]
    for run in runs:
        for name, (titles, *rows) in run.tables.items():
            of = "Last evaluation" if name == "eval" else f"Last evaluation {name}"
            parts += [f"<h2>{html.escape(f'{of} of {run.name}')}</h2>", _table(titles, rows)]
    if shown := [run for run in runs if run.predictions]:
        parts += ["<h2>Predictions of the newest evaluation</h2>", *map(_predictions, shown)]
    return "\n".join(parts) + "\n"


def _predictions(run: RunLog) -> str:
    """Returns the predictions of a run as HTML, with the image embedded."""
    name, image = html.escape(run.name), base64.b64encode(run.predictions).decode()
    return f'<h3>{name}</h3><img alt="predictions of {name}" src="data:image/png;base64,{image}">'


_TOTALS = (("total_steps", "steps"), ("total_epochs", "epochs"))  # planned length, in steps or epochs


def _summary_table(runs: Sequence[RunLog]) -> str:
    """Returns a table of the results of the runs of one task, one row per run."""
    rows = [_summary(run) for run in runs]
    return _table(["run", *rows[0]], [[run.name, *row.values()] for run, row in zip(runs, rows, strict=True)])


def _summary(run: RunLog) -> dict[str, str]:
    def last(name: str, form: str) -> str:
        return format(run.curves[name][1][-1], form) if name in run.curves else ""

    def middle(name: str, form: str) -> str:
        values = sorted(filter(math.isfinite, run.curves[name][1])) if name in run.curves else []
        return format(values[len(values) // 2], form) if values else ""

    settings = settings_of(run.task)
    title = dict(settings.HEADLINE)[settings.BEST_METRIC]
    points = list(zip(*run.curves.get(ranking_metric(run.task), ((), ())), strict=True))
    best = max((each for each in points if math.isfinite(each[1])), key=lambda each: each[1], default=None)
    return {
        "model": str(run.settings.get("model.name", "")),
        "step": str(max(steps[-1] for steps, _ in run.curves.values())),
        "of": next(
            (f"{run.settings[key]:.10g} {unit}" for key, unit in _TOTALS if is_number(run.settings.get(key))), ""
        ),
        "loss": last("train/loss", ".4f"),
        f"best {title}": f"{best[1]:.2f} %" if best else "",
        "at step": str(best[0]) if best else "",
        f"last {title}": f"{points[-1][1]:.2f} %" if points else "",
        "images/s, median": middle("images_per_second", ".0f"),
        "waiting, median": middle("input_wait", ".1%"),
    }


def _differing(runs: Sequence[RunLog]) -> list[str]:
    keys = sorted({key for run in runs for key in run.settings})
    return [key for key in keys if len({repr(run.settings.get(key)) for run in runs}) > 1]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
