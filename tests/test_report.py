"""A report tells of runs what their workdirs hold."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from focalnet_jax.errors import UserError
from focalnet_jax.report import draw, main, read_run, thinned
from tests.commands import metrics


@pytest.fixture
def other(tmp_path):
    """A run by hand of three steps, the last line half written."""
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
    assert len(np.unique(np.asarray(image).reshape(-1, 4), axis=0)) > 50
    assert not re.search(r"(src|href)=.?https?:", page)
    best = max(row["eval/top1"] for row in metrics(workdir) if "eval/top1" in row)
    assert f"{best:.2f} %" in page
    assert "by &amp; hand" in page
    assert "<td>focalnet_x</td><td>2 of 9</td><td>1.0000</td><td>20.00 %</td><td>1</td><td>10.00 %</td>" in page
    assert "<td>seed</td><td>1</td><td>5</td>" in page


def test_a_picture_of_the_curves_alone(other, tmp_path):
    assert main([str(other), "--out", str(tmp_path / "curves.png")]) == 0
    assert Image.open(tmp_path / "curves.png").size[0] > 1000


def test_every_panel_has_a_curve_of_every_run_that_has_the_metric(finished, other):
    runs = [read_run(finished[0]), read_run(other)]
    axes = {axis.get_title(): axis for axis in draw(runs).axes}
    assert len(axes["training loss"].lines) == 2
    assert len(axes["top-1 (solid, dot) and top-5 (dotted, cross), %"].lines) == 3  # the second has no top-5
    assert len(axes["learning rate"].lines) == 1
    np.testing.assert_array_equal(axes["training loss"].lines[1].get_xydata(), [[1, 2], [2, 1]])


def test_runs_of_one_name_are_told_apart_by_their_folders(other, tmp_path):
    copy = tmp_path / "b" / "again" / other.name
    copy.mkdir(parents=True)
    (copy / "metrics.jsonl").write_text((other / "metrics.jsonl").read_text())
    assert main([str(other), str(copy), "--out", str(tmp_path / "report.html")]) == 0
    assert "<td>b/again/by &amp; hand</td>" in (tmp_path / "report.html").read_text()


def test_many_points_are_thinned_to_their_means():
    steps, values = thinned(range(1, 6001), [1.0, 3.0] * 3000)
    assert (len(steps), steps[0], set(values)) == (1500, 2.5, {2.0})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "nowhere holds no run: there is no metrics.jsonl in it"),
        (["nowhere", "--out", "report.pdf"], "expected a name that ends in .html or .png"),
        ([], "required: WORKDIR"),
    ],
)
def test_a_mistake_is_one_line(arguments, told):
    with pytest.raises(UserError, match=told):
        main(arguments)


def test_a_run_that_logged_nothing_is_said_so(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="has logged nothing yet"):
        main([str(tmp_path)])


def test_lines_that_are_no_metrics_are_passed_over_and_a_damaged_config_is_one_line(other):
    logged, expected = other / "metrics.jsonl", read_run(other).curves
    logged.write_bytes(b'[1, 2]\n{"loss": 1}\n{"step": "x"}\n\xff\xfe\n' + logged.read_bytes())
    assert read_run(other).curves == expected
    (other / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        read_run(other)
