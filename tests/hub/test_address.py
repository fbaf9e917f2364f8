"""Addresses hf://ORG/NAME[@REVISION][/FILE], and the files that are chosen in a repository."""

import json
from pathlib import Path

import pytest

from focalnet_jax.errors import UserError
from focalnet_jax.hub.address import Address, is_address, parse_address
from focalnet_jax.hub.choice import choose, shards_of

PARSED = {
    "hf://timm/focalnet_tiny_srf.ms_in1k": Address("timm/focalnet_tiny_srf.ms_in1k"),
    "HF://a/b/": Address("a/b"),
    "hf://a/b@v1": Address("a/b", "v1"),
    "hf://a/b@v1/c/d.bin": Address("a/b", "v1", "c/d.bin"),
    "hf://a/b@refs/pr/3/c.bin": Address("a/b", "refs/pr/3", "c.bin"),
    "hf://a/b@feature%2Fx/c.bin": Address("a/b", "feature/x", "c.bin"),
    "hf://models/a/b/c.pth": Address("a/b", None, "c.pth"),
    "hf://models/a": Address("models/a"),
}


@pytest.mark.parametrize("text", PARSED)
def test_an_address_has_a_repository_a_revision_and_a_file(text):
    assert parse_address(text) == PARSED[text]
    assert parse_address(str(PARSED[text])) == PARSED[text]
    assert parse_address(Path(text)) == PARSED[text]  # which joins the two slashes


DATA_SETS = {
    "hf://datasets/timm/imagenet-1k-wds": Address("timm/imagenet-1k-wds", kind="dataset"),
    "hf://datasets/a/b@refs/convert/parquet/c": Address("a/b", "refs/convert/parquet", "c", "dataset"),
    "hf://datasets/a/b@v1/data/train-*.parquet": Address("a/b", "v1", "data/train-*.parquet", "dataset"),
}


@pytest.mark.parametrize("text", DATA_SETS)
def test_the_address_of_a_data_set_says_so(text):
    assert parse_address(text, "dataset") == DATA_SETS[text]
    assert parse_address(str(DATA_SETS[text]), "dataset") == DATA_SETS[text]
    assert parse_address(Path(text), "dataset") == DATA_SETS[text]
    assert DATA_SETS[text].page == f"datasets/{DATA_SETS[text].repo}"


NO_DATA_SETS = {
    "hf://a/b@v1/c": "is a model on the hub; expected a data set, .*Did you mean 'hf://datasets/a/b@v1/c'?",
    "hf://spaces/a/b": "is a space on the hub; expected a data set",
    "hf://datasets/a": "names no repository; expected hf://datasets/ORG/NAME.*, such as hf://datasets/timm/imagenet-1k-wds",
    "hf://datasets": "is no data set on the hub; expected a data set, hf://datasets/ORG/NAME",
    "hf:/datasets/a/b": "Did you mean 'hf://datasets/a/b'?",
}


@pytest.mark.parametrize("text", NO_DATA_SETS)
def test_another_address_than_that_of_a_data_set_is_refused(text):
    with pytest.raises(UserError, match=NO_DATA_SETS[text].replace("?", r"\?")) as error:
        parse_address(text, "dataset")
    assert "\n" not in str(error.value)


REFUSED = {
    "hf:/a/b": "Did you mean 'hf://a/b'?",
    "hf:a/b": "Did you mean 'hf://a/b'?",
    "hf:///a/b": "Did you mean 'hf://a/b'?",
    "hf://a": "names no repository",
    "hf://": "names no repository",
    "hf://a/": "names no repository",
    "hf:///": "is not an address",
    "hf://datasets/a/b": "is a data set on the hub; expected a model",
    "hf://spaces/a/b": "is a space on the hub",
    "hf://a/b@": "no revision after @",
    "hf://a/b@/c": "no revision after @",
    "hf://a/b c": "'b c' is not a valid name on the hub",
    "hf://a/-b": "'-b' is not a valid name",
    "hf://a/b--c": "'b--c' is not a valid name",
    "hf://a/b//c": "'/c' is not a file",
    "hf://a/b/../c": "'../c' is not a file",
    "hf://é/b": "'é' is not a valid name",
}


@pytest.mark.parametrize("text", REFUSED)
def test_another_text_is_refused_with_what_is_expected(text):
    assert is_address(text)
    with pytest.raises(UserError) as error:
        parse_address(text)
    assert REFUSED[text] in str(error.value)
    assert "hf://ORG/NAME" in str(error.value)
    assert "\n" not in str(error.value)


def test_paths_are_no_addresses():
    assert not any(map(is_address, ("a/hf/b", "./hf://a/b", "gs://a/b", Path("runs/hf"), "")))


CHOSEN = {
    "model.safetensors": ["pytorch_model.bin", "model.safetensors", "a.pth", "config.json"],
    "model.safetensors.index.json": ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "x.bin"],
    "pytorch_model.bin.index.json": ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin", "x.pth"],
    "focalnet.safetensors": ["focalnet.safetensors", "focalnet.bin", "focalnet.pth"],
    "focalnet.bin": ["focalnet.bin", "focalnet.pth", "training_args.bin", "optimizer.bin"],
    "focalnet.pth": ["focalnet.pth", "rng_state.pth", "rng_state_0.pth", "scheduler.pt", "folder/model.safetensors"],
    "focalnet.ckpt": ["focalnet.ckpt", "README.md"],
}


@pytest.mark.parametrize("weights", CHOSEN)
def test_safetensors_come_before_bin_before_pth_and_what_trainers_write_is_left_out(weights):
    assert choose(CHOSEN[weights], "", "hf://a/b").weights == weights
    inside = [f"deep/er/{name}" for name in CHOSEN[weights]]
    assert choose(inside, "deep/er", "hf://a/b").weights == f"deep/er/{weights}"


def test_the_files_that_describe_the_weights_come_with_them_and_no_others():
    names = ["a/model.safetensors", "a/config.json", "a/README.md", "config.json", "preprocessor_config.json"]
    assert choose(names, "a/model.safetensors", "").descriptions == ("a/config.json",)
    names.append("a/preprocessor_config.json")
    assert choose(names, "a", "").descriptions == ("a/config.json", "a/preprocessor_config.json")


@pytest.mark.parametrize(
    ("names", "path", "message"),
    [
        (["a.pth", "b.pth"], "", "2 weights files, a.pth, b.pth: give one of them, such as hf://o/n/a.pth"),
        (["model.safetensors"], "modle.safetensors", "Did you mean 'model.safetensors'"),
        (["README.md", "tf_model.h5"], "", "no weights of a PyTorch model; its files are README.md, tf_model.h5"),
        (
            ["v1/model.safetensors"],
            "",
            "only in folders, v1/model.safetensors: give one of them, such as hf://o/n/v1/model.safetensors",
        ),
        ([], "", "the repository is empty"),
    ],
)
def test_without_one_best_choice_the_error_names_the_files(names, path, message):
    with pytest.raises(UserError) as error:
        choose(names, path, "hf://o/n")
    assert message in str(error.value)


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {"a": "../b"}}])
def test_an_index_names_files_of_its_folder(index):
    with pytest.raises(UserError, match="is not an index of shards"):
        shards_of(index, "model.safetensors.index.json", "hf://o/n")
    assert shards_of(json.loads('{"weight_map": {"a": "y", "b": "x", "c": "y"}}'), "d/i", "") == ["d/x", "d/y"]
