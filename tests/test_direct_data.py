"""A run that reads Parquet files or WebDataset shards directly is the run on the same data prepared."""

import json

import pytest

from tests.commands import ENVIRONMENT, SMALL, assert_one_line_mistake, losses, metrics, run
from tests.data.layouts import write_parquet
from tests.data.preparing import write_tar

RECIPE = [
    *SMALL,
    "--config.model.num_classes=2",
    "--config.batch_size=8",
    "--config.total_steps=4",
    "--config.schedule.warmup_steps=1",
    "--config.eval_every_steps=2",
    "--config.augment.policy=rand-m9-mstd0.5-inc1",
]


@pytest.fixture(scope="module")
def packed(photos, tmp_path_factory):
    """The photos of `photos` in Parquet files and in shards, as PATH/KIND."""
    root = tmp_path_factory.mktemp("packed")
    for split in ("train", "val"):
        rows, shard = [], {}
        for number, path in enumerate(sorted((photos / split).rglob("*.jpg"))):
            label = path.parent.name
            content, key = path.read_bytes(), f"{split}{number:04d}"
            rows.append((f"{key}.jpg", content, ("china", "flower").index(label)))
            shard |= {f"{key}.jpg": content, f"{key}.json": json.dumps({"label": label}).encode()}
        write_parquet(root / "parquet" / f"{split}-00000-of-00001.parquet", rows, ["china", "flower"])
        write_tar(root / "webdataset" / f"{split}-0000.tar", shard)
    return root


def test_training_and_evaluation_equal_those_on_prepared_data(packed, tmp_path):
    environment = ENVIRONMENT | {"HOME": str(tmp_path / "home")}
    sources = ["--source", packed / "parquet", "--out", tmp_path / "out", "--processes", "1"]
    made = run("-m", "focalnet_jax.data.prepare", "parquet", *sources)
    assert made.returncode == 0, made.stderr
    data = {
        "prepared": ["--config.data.source=tfds", f"--config.data.path={tmp_path / 'out'}"],
        "rows": ["--config.data.source=parquet", f"--config.data.path={packed / 'parquet'}"],
        "shards": ["--config.data.source=webdataset", f"--config.data.path={packed / 'webdataset'}"],
    }
    found = {}
    for name, flags in data.items():
        readers = "--config.data.workers=1" if name == "rows" else "--config.data.workers=0"
        done = run("train.py", *RECIPE, *flags, readers, "--workdir", tmp_path / name, env=environment)
        assert done.returncode == 0, done.stderr
        rows = metrics(tmp_path / name)
        evaluated = [(row["step"], row["eval/loss"], row["eval/top1"]) for row in rows if "eval/loss" in row]
        assert len(evaluated) == 2
        found[name] = losses(tmp_path / name), evaluated
    assert found["rows"] == found["shards"] == found["prepared"]
    done = run("eval.py", *RECIPE, *data["rows"], "--checkpoint", tmp_path / "shards", env=environment)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["examples"], result["loss"]) == (10, found["rows"][1][-1][1])
    assert list((tmp_path / "home" / ".cache" / "focalnet_jax" / "data" / "indices").glob("*/*.npy"))


def test_a_mistake_is_one_line(packed, tmp_path):
    environment = ENVIRONMENT | {"HOME": str(tmp_path / "home")}

    def given(*flags):
        return run("train.py", *RECIPE, *flags, "--workdir", tmp_path / "run", env=environment)

    path = f"--config.data.path={packed / 'parquet'}"
    assert_one_line_mistake(
        given("--config.data.source=webdataset", path), "expected WebDataset shards, found 2 .parquet"
    )
    assert_one_line_mistake(given("--config.data.source=parqet", path), "Did you mean 'parquet'?")
    address = "--config.data.path=hf://me/pictures"
    assert_one_line_mistake(given("--config.data.source=parquet", address), "Did you mean 'hf://datasets/me/pictures'?")
    wrong = "--config.data.label_column=lable"
    assert_one_line_mistake(given("--config.data.source=parquet", path, wrong), "Did you mean 'label'?")
