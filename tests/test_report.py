"""A report shows the contents of the workdirs of runs."""

import base64
import io
import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from focalnet_jax.errors import UserError
from focalnet_jax.report.__main__ import main
from focalnet_jax.report.page import draw, page, thinned
from focalnet_jax.report.runs import read_run
from focalnet_jax.system.files import write_whole
from tests.commands import metrics


@pytest.fixture
def other(tmp_path):
    """Writes the workdir of a run of three steps, whose last line is incomplete."""
    workdir = tmp_path / "by & hand"
    workdir.mkdir()
    rows = [{"step": step, "train/loss": 3.0 - step, "mfu": None, "eval/top1": 10.0 * (3 - step)} for step in (1, 2)]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "train/lo'
    (workdir / "metrics.jsonl").write_text(text)
    (workdir / "config.json").write_text(json.dumps({"model": {"name": "focalnet_x"}, "seed": 5, "total_steps": 9}))
    return workdir


def test_a_page_holds_curves_figures_and_differing_settings_and_needs_no_other_file(finished, other, tmp_path, capsys):
    workdir, _ = finished
    assert main([str(workdir), str(other), "--out", str(tmp_path / "report.html")]) == 0
    assert "2 runs" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    image = Image.open(io.BytesIO(base64.b64decode(re.search(r'base64,([^"]+)"', page)[1])))
    assert len(image.getcolors(2**24)) > 50
    assert not re.search(r"(src|href)=.?https?:", page)
    best = max(row["eval/top1"] for row in metrics(workdir) if "eval/top1" in row)
    assert f"{best:.2f} %" in page
    assert "by &amp; hand" in page
    assert (
        "<td>focalnet_x</td><td>2</td><td>9 steps</td><td>1.0000</td><td>20.00 %</td><td>1</td><td>10.00 %</td>" in page
    )
    assert "<td>seed</td><td>1</td><td>5</td>" in page


def test_a_picture_of_the_curves_alone(other, tmp_path):
    assert main([str(other), "--out", str(tmp_path / "curves.png")]) == 0
    assert Image.open(tmp_path / "curves.png").size[0] > 1000


def test_an_existing_file_is_replaced_only_with_overwrite(other, tmp_path):
    holiday = tmp_path / "holiday.png"
    holiday.write_text("a picture")
    with pytest.raises(UserError, match=r"holiday\.png already exists; choose another --out or give --overwrite"):
        main([str(other), "--out", str(holiday)])
    assert holiday.read_text() == "a picture"
    assert main([str(other), "--out", str(holiday), "--overwrite"]) == 0
    assert Image.open(holiday).size[0] > 1000


@pytest.fixture
def many(other, tmp_path):
    """A folder with twelve runs, like a sweep's."""
    for seed in range(12):
        workdir = tmp_path / "sweep" / f"seed={seed}"
        workdir.mkdir(parents=True)
        (workdir / "metrics.jsonl").write_bytes((other / "metrics.jsonl").read_bytes())
        (workdir / "config.json").write_text(json.dumps({"seed": seed, "total_epochs": 4.0}))
    (tmp_path / "sweep" / "sweep.json").write_text("[]")
    return tmp_path / "sweep"


def test_a_folder_of_runs_is_all_of_them_under_their_number(many, tmp_path):
    assert main([str(many), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "<h1>12 runs</h1>" in page
    assert all(f"<td>seed={seed}</td>" in page for seed in range(12))
    assert "<td>2</td><td>4 epochs</td>" in page


def test_every_run_has_a_colour_of_its_own_and_a_name_in_the_legend(many):
    figure = draw([read_run(path) for path in sorted(many.glob("*/"))])
    colours = [line.get_color() for line in figure.axes[0].lines]
    assert len(set(colours)) == len(colours) == 12
    (legend,) = figure.legends
    assert [line.get_color() for line in legend.get_lines()] == colours
    assert {text.get_text() for text in legend.get_texts()} == {f"seed={seed}" for seed in range(12)}


def test_every_panel_has_a_curve_of_every_run_that_has_the_metric(finished, other):
    runs = [read_run(finished[0]), read_run(other)]
    accuracies = "top-1 (solid, dots) and top-5 (dotted, crosses), %"
    axes = {axis.get_title(): axis for axis in draw(runs).axes}
    assert len(axes["training loss"].lines) == 2
    assert len(axes[accuracies].lines) == 3  # the second run has no top-5
    assert {line.get_marker() for line in axes[accuracies].lines} == {
        ".",
        "x",
    }  # as described in the title, also for many runs
    assert len(axes["learning rate"].lines) == 1
    np.testing.assert_array_equal(axes["training loss"].lines[1].get_xydata(), [[1, 2], [2, 1]])


def test_runs_of_one_name_are_distinguished_by_their_folders(other, tmp_path):
    copy = tmp_path / "b" / "again" / other.name
    copy.mkdir(parents=True)
    (copy / "metrics.jsonl").write_text((other / "metrics.jsonl").read_text())
    assert main([str(other), str(copy), "--out", str(tmp_path / "report.html")]) == 0
    assert "<td>b/again/by &amp; hand</td>" in (tmp_path / "report.html").read_text()


def test_many_points_are_thinned_to_their_means():
    steps, values = thinned(range(1, 6001), [1.0, 3.0] * 3000)
    assert (len(steps), steps[0], set(values)) == (1500, 2.5, {2.0})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere contains no run; expected metrics.jsonl in it or in its folders"),
        (["nowhere", "--out", "nodir/report.html"], "there is no folder nodir; create it"),
        (["nowhere", "--out", "report.pdf"], "expected a name that ends in .html or .png"),
        ([], "required: WORKDIR"),
    ],
)
def test_a_mistake_is_one_line(arguments, message):
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_a_run_that_logged_nothing_and_a_file_of_no_run_are_refused(tmp_path):
    for content, message in (
        ("", "has logged nothing yet"),
        ("hello\n[1]\n", r"metrics\.jsonl is damaged or not the metrics of a run"),
        ('{"step": 1, "error": 2}', "has no metric of a run, such as train/loss"),
    ):
        (tmp_path / "metrics.jsonl").write_text(content)
        with pytest.raises(UserError, match=message):
            main([str(tmp_path)])


def test_lines_that_are_no_metrics_are_passed_over_and_a_damaged_config_is_one_line(other):
    logged, expected = other / "metrics.jsonl", read_run(other).curves
    logged.write_bytes(b'[1, 2]\n{"loss": 1}\n{"step": "x"}\n\xff\xfe\n' + logged.read_bytes())
    assert read_run(other).curves == expected
    (other / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged") as damaged:
        read_run(other)
    assert str(damaged.value).count("is damaged") == 1


def test_numbers_that_are_not_finite_are_skipped_and_names_are_text(tmp_path):
    folder = tmp_path / os.fsdecode(b"a\xff$\\frac$")
    folder.mkdir()
    rows = ['{"step": Infinity, "train/loss": 1}', '{"step": 1, "train/loss": 1' + "0" * 400 + "}"]
    rows += ['{"step": 1, "eval/top1": NaN, "images_per_second": 5}', '{"step": 2, "eval/top1": 50.0}']
    (folder / "metrics.jsonl").write_text("\n".join(rows))
    (folder / "config.json").write_text('{"total_epochs": "ten", "model": {"name": "x"}}')
    one = read_run(folder)
    assert one.curves.keys() == {"eval/top1", "images_per_second"}
    write_whole(tmp_path / "report.html", page([one, replace(one, name="other")]))
    assert "<td>50.00 %</td><td>2</td>" in (tmp_path / "report.html").read_text()
    (folder / "config.json").write_text('{"a.b": 1}')
    with pytest.raises(UserError, match=r"config\.json is damaged or not the config of a run"):
        read_run(folder)
