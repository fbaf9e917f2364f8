"""A continued run of segmentation keeps its classes, in any order of the classes in the data."""

import numpy as np
import pytest
from PIL import Image

from focalnet_jax.checkpoint.steps import find_checkpoint, read_metadata
from focalnet_jax.errors import UserError
from focalnet_jax.training.loop import train
from tests.commands import losses, metrics
from tests.tasks.segmentation.test_starts import config_of

# Masks store colours, so that the order of the lines gives the classes other numbers.
COLOURS = {"sky": (10, 20, 30), "road": (200, 0, 40), "car": (0, 90, 250)}
STEPS = 2


def write_data(folder, names):
    """Writes the same images and masks on every call, with a class list in the order of `names`."""
    draw = np.random.default_rng(0)
    colours = np.array(list(COLOURS.values()), np.uint8)
    for split, count in (("train", 16), ("val", 4)):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            image, mask = draw.integers(0, 256, (40, 48, 3), np.uint8), colours[draw.integers(0, 3, (40, 48))]
            for kind, pixels in (("images", image), ("masks", mask)):
                Image.fromarray(pixels).save(folder / kind / split / f"{index}.png")
    (folder / "classes.txt").write_text("".join(f"{name} {' '.join(map(str, COLOURS[name]))}\n" for name in names))
    return folder


def settings(data, *flags, classes=3):
    return config_of(
        "--config.data.source=folder",
        f"--config.data.path={data}",
        f"--config.model.num_classes={classes}",
        f"--config.total_steps={STEPS}",
        "--config.schedule.learning_rate=1e-2",
        "--config.ema_decay=0.5",
        "--config.head.pool_scales=(1,)",
        "--config.head.auxiliary_weight=0.0",
        *flags,
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The data and the workdir of a finished run."""
    folder = tmp_path_factory.mktemp("continuing")
    data = write_data(folder / "data", COLOURS)
    assert train(settings(data), folder / "run") == 0
    return data, folder / "run"


def test_the_order_of_the_classes_in_the_data_changes_nothing(first, tmp_path, capsys):
    data, run = first
    moved = write_data(tmp_path / "moved", ("car", "sky", "road"))
    results = []
    for name, source in (("same", data), ("other", moved)):
        assert train(settings(source, f"--config.continue_from={run}"), tmp_path / name) == 0
        stored = read_metadata(find_checkpoint(str(tmp_path / name)))
        assert stored["classes"] == list(COLOURS)
        assert stored["palette"] == [list(colour) for colour in COLOURS.values()]
        [evaluated] = [
            {key: value for key, value in row.items() if key in ("eval/miou", "eval/loss")}
            for row in metrics(tmp_path / name)
            if "eval/miou" in row
        ]
        results.append((losses(tmp_path / name), evaluated))
    printed = capsys.readouterr()
    assert "checkpoints/2: weights, optimizer state, 2 steps" in printed.out
    assert f"split train: 3 of the 3 classes of {run}/checkpoints/2, matched by name" in printed.out
    assert "that run was trained on other data" in printed.err
    assert list(results[0][0]) == [STEPS + 1, STEPS + 2]
    assert results[0] == results[1]


def test_data_with_other_classes_are_refused_in_one_line(first, tmp_path):
    data, run = first
    (renamed := write_data(tmp_path / "renamed", COLOURS)).joinpath("classes.txt").write_text(
        "sky 10 20 30\nroad 200 0 40\ntruck 0 90 250\n"
    )
    with pytest.raises(UserError, match=r"split train has 1 class that .*/2 lacks: truck; .* data.classes of that run"):
        train(settings(renamed, f"--config.continue_from={run}"), tmp_path / "a")
    with pytest.raises(UserError, match=r"continue_from: .*conv_seg.*or init_from to take only its weights") as raised:
        train(settings(data, f"--config.continue_from={run}", classes=4), tmp_path / "b")
    assert "\n" not in str(raised.value)
