"""Data sets on the hub: which files are read, of which subset, with which splits and class names."""

import json

import pytest

from focalnet_jax.data.prepare.__main__ import main
from focalnet_jax.data.sources import open_source
from focalnet_jax.errors import RunFailedError, UserError
from tests.data import layouts
from tests.data.layouts import write_parquet
from tests.data.pictures import picture
from tests.data.preparing import in_process, prepared, refused, write_tar  # noqa: F401
from tests.hub.repositories import by_prefix, card, files_in, rows

pytestmark = pytest.mark.usefixtures("in_process")

FILE = r"GET /(cdn/)?datasets/.*\.(parquet|tar)"


@pytest.mark.parametrize(
    ("kind", "write", "local"),
    [
        ("parquet", layouts.hub_parquet, "parquet"),
        ("imagenet1k", layouts.hub_parquet, "imagenet1k"),
        ("webdataset", layouts.webdataset, "webdataset"),
        ("imagenet1k", layouts.webdataset, "imagenet1k"),
        ("imagenet1k", layouts.hub_tars, "imagenet1k"),
    ],
)
def test_a_data_set_of_the_hub_is_the_data_set_in_a_folder(kind, write, local, hub, tmp_path):
    write(tmp_path / "local")
    others = {"notes.pdf": b"x", "data/preview.png": b"x", ".gitattributes": b"x"}
    hub.add("datasets/me/pictures", files_in(tmp_path / "local") | others)
    expected, found = prepared(tmp_path / "expected", local, "--source", tmp_path / "local")
    of_hub, found_too = prepared(tmp_path / "out", kind, "--source", "hf://datasets/me/pictures")
    assert (of_hub["fingerprint"], found_too) == (expected["fingerprint"], found)
    assert not hub.asked("GET .*(pdf|png|gitattributes)")
    assert bool(hub.asked("GET /cdn/.*test")) == (kind == "parquet")  # ImageNet's test images have no labels


def test_a_folder_a_file_a_pattern_and_a_revision_choose_files(hub, tmp_path):
    repository = hub.add(
        "datasets/me/pictures", {f"data/{name}": content for name, content in rows(tmp_path / "set", 0, 4).items()}
    )
    old = repository.refs["main"]
    name = "train-00000-of-00001.parquet"
    repository.commit({f"data/{name}": rows(tmp_path / "new", 20, 6)[name]})
    address = "hf://datasets/me/pictures"
    for number, (source, expected) in enumerate(
        {
            address: {"train": 6, "val": 4},
            f"{address}/data": {"train": 6, "val": 4},
            f"{address}@{old}": {"train": 4, "val": 4},
            f"{address}/data/train-00000-of-00001.parquet": {"train": 6},
            f"{address}/data/v*.parquet": {"val": 4},
            f"{address}/data/{{train,val}}-{{00000..00003}}-of-00001.parquet": {"train": 6, "val": 4},
        }.items()
    ):
        _, found = prepared(tmp_path / f"out{number}", "parquet", "--source", source)
        assert {split: sum(classes.values()) for split, classes in found.items()} == expected, source
    refused("has no folder, file or subset dat; it has data. Did you mean 'data'?", "parquet", "--source",
            f"{address}/dat", "--out", tmp_path / "out")  # fmt: skip


def test_one_subset_is_read_and_it_is_named_or_the_default(hub, tmp_path, capsys):
    files = {}
    for name, count in (("plain", 4), ("cropped", 6)):
        files |= {f"{name}/{path}": content for path, content in rows(tmp_path / name, count, count).items()}
    subsets = [("plain", by_prefix("plain/")), ("cropped", by_prefix("cropped/"))]
    hub.add("datasets/me/two", files | {"README.md": card(*subsets)})
    out = ["--out", tmp_path / "refused"]
    message = (
        "hf://datasets/me/two has several subsets, cropped, plain: give one of them, such as hf://datasets/me/two/"
    )
    refused(message, "parquet", "--source", "hf://datasets/me/two", *out)
    assert not hub.asked(FILE)
    _, found = prepared(tmp_path / "plain out", "parquet", "--source", "hf://datasets/me/two/plain")
    assert sum(found["train"].values()) == 4
    assert not hub.asked("GET .*cropped")
    hub.add("datasets/me/one", files | {"README.md": card(("default", by_prefix("cropped/")), subsets[0])})
    _, found = prepared(tmp_path / "default out", "parquet", "--source", "hf://datasets/me/one")
    assert sum(found["train"].values()) == 6
    assert "the subset default is read, the default of hf://datasets/me/one; others: plain" in capsys.readouterr().out
    # Without a card, folders with the same splits are subsets.
    hub.add("datasets/me/none", files)
    refused("several subsets, cropped, plain", "parquet", "--source", "hf://datasets/me/none", *out)
    repository = hub.add("datasets/me/none", {})
    repository.commit({"a/train/0000.parquet": files["plain/train-00000-of-00001.parquet"]}, "refs/convert/parquet")
    repository.commit({"b/train/0000.parquet": files["plain/train-00000-of-00001.parquet"]}, "refs/convert/parquet")
    refused("several subsets, a, b", "parquet", "--source", "hf://datasets/me/none@refs/convert/parquet", *out)


def test_a_downloaded_repository_has_the_subsets_of_its_card(tmp_path):
    for name in ("plain", "cropped"):
        rows(tmp_path / "set" / name, 0, 4)
    (tmp_path / "set" / "README.md").write_bytes(
        card(*((name, by_prefix(f"{name}/")) for name in ("plain", "cropped")))
    )
    arguments = ["parquet", "--source", tmp_path / "set", "--out", tmp_path / "out"]
    refused(f"give the files of one of them, such as {tmp_path}/set/cropped/train-*", *arguments)
    assert prepared(tmp_path / "out", "parquet", "--source", tmp_path / "set" / "plain")[1]["train"] == {"0": 2, "1": 2}


def test_the_card_names_the_splits_of_files(hub, tmp_path, capsys):
    files = {f"{number}.parquet": write_parquet(tmp_path / f"{number}.parquet", [
        (f"{n}.jpg", picture(n), n % 2) for n in range(number * 10, number * 10 + 2 + number)
    ]).read_bytes() for number in range(3)}  # fmt: skip
    hub.add(
        "datasets/me/named",
        files | {"README.md": card(("x", {"train": "0.parquet", "validation": "1.parquet", "extra": "2.parquet"}))},
    )
    _, found = prepared(tmp_path / "out", "parquet", "--source", "hf://datasets/me/named")
    assert {split: sum(classes.values()) for split, classes in found.items()} == {"train": 2, "val": 3}
    assert "not read: 1 files of the split extra" in capsys.readouterr().out


def test_numbers_get_the_names_on_the_card(hub, tmp_path):
    names = "dataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
    names += "      class_label:\n        names:\n          '0': no\n          '1': 1.0\n"
    hub.add("datasets/me/rows", rows(tmp_path / "rows", 0, 4) | {"README.md": card(extra=names)})
    prepared_card, found = prepared(tmp_path / "out", "parquet", "--source", "hf://datasets/me/rows")
    assert found["train"] == {"no": 2, "1.0": 2}
    samples = {}
    for key in range(4):
        samples |= {f"{key}.jpg": picture(key), f"{key}.cls": str(key % 2).encode()}
    shard = write_tar(tmp_path / "train-0.tar", samples).read_bytes()
    described = {
        "readme": {"README.md": card(extra=names.replace("label\n", "cls\n", 1))},
        "info": {"dataset_info.json": json.dumps({"features": {"cls": {"names": ["no", "1.0"]}}}).encode()},
        "ours": {"_info.json": json.dumps({"classes": ["no", "1.0"]}).encode()},
        "list": {"classnames.txt": b"no\n1.0\n"},
    }
    for name, files in described.items():
        hub.add(f"datasets/me/{name}", files | {"train/0.tar": shard})
        of_shards, found = prepared(tmp_path / name, "webdataset", "--source", f"hf://datasets/me/{name}")
        assert found == {"train": {"no": 2, "1.0": 2}}, name
        assert list(of_shards["classes"]) == list(prepared_card["classes"])


def test_a_repository_without_such_files_is_one_line_that_says_what_it_has(hub, tmp_path):
    hub.add("datasets/me/zip", {"images.zip": b"x", "a/b.csv": b"x"})
    out = ["--source", "hf://datasets/me/zip", "--out", tmp_path / "out"]
    refused("contains no Parquet files; its files have the suffixes .csv, .zip; give hf://datasets/me/zip@refs/convert/"
            "parquet", "parquet", *out)  # fmt: skip
    refused("contains no WebDataset shards", "webdataset", *out)
    for kind in ("imagefolder", "imagenet22k", "tfrecord"):
        refused(f"the kind {kind} reads local files; data sets on the hub are read by the kinds", kind, *out)


def test_a_listed_file_outside_of_the_repository_is_refused(hub, tmp_path):
    hub.add("datasets/me/bad", rows(tmp_path / "set", 0, 4) | {"../../train-9.parquet": b"x"})
    with pytest.raises(RunFailedError, match=r"lists a file outside of it, '../../train-9.parquet'"):
        main(["parquet", "--source", "hf://datasets/me/bad", "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("page", "address"),
    [
        ("", "hf://datasets/me/pictures"),
        ("/tree/main/data", "hf://datasets/me/pictures@main/data"),
        ("/resolve/v1/data/0.parquet", "hf://datasets/me/pictures@v1/data/0.parquet"),
    ],
)
def test_for_a_web_page_the_error_names_the_address(page, address, tmp_path):
    source = f"https://huggingface.co/datasets/me/pictures{page}"
    refused(f"is a web page: give the address {address}", "parquet", "--source", source, "--out", tmp_path / "out")


def test_a_source_that_reads_no_hub_names_those_that_do():
    with pytest.raises(UserError, match=r"is on the Hugging Face Hub: set --config.data.source=parquet or webdataset"):
        open_source("tfds", "hf://datasets/me/pictures", "train")


def test_paths_of_runs_and_weights_are_no_data_sets(hub):
    from focalnet_jax.hub.download import local_path

    with pytest.raises(UserError, match="hf://datasets/a/b is a data set on the hub; expected a model"):
        local_path("hf://datasets/a/b")
