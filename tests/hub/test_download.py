"""Weights downloaded from the hub: which files, from where, and what happens when it goes wrong."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import focalnet_jax
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.hub.download import fetch, fingerprint, local_path, origin
from focalnet_jax.parameters import named_leaves
from tests.convert.golden_files import GOLDEN
from tests.hub.handler import READER

WEIGHTS = "model.safetensors"
FILE = "GET /(cdn|me/focal/resolve/)"


def same(one, other):
    a, b = named_leaves(one.params), named_leaves(other.params)
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def in_shards(files):
    """The same directory with its weights in two shards and an index."""
    tensors = safetensors.numpy.load(files[WEIGHTS])
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    index = {"metadata": {}, "weight_map": {name: file for file, held in shards.items() for name in held}}
    made = {file: safetensors.numpy.save({name: tensors[name] for name in held}) for file, held in shards.items()}
    rest = {name: content for name, content in files.items() if name != WEIGHTS}
    return rest | made | {"model.safetensors.index.json": json.dumps(index).encode()}


@pytest.fixture
def expected(model_files, tmp_path):
    (tmp_path / "expected").mkdir()
    for name, content in model_files.items():
        (tmp_path / "expected" / name).write_bytes(content)
    return read_weights(tmp_path / "expected")


def test_only_the_weights_and_what_describes_them_are_downloaded(hub, model_files, expected):
    others = {"pytorch_model.bin": b"x", "README.md": b"x", "flax_model.msgpack": b"x", "onnx/model.onnx": b"x"}
    hub.add("me/focal", model_files | others)
    found = read_weights("hf://me/focal")
    assert same(found, expected)
    assert (found.config, found.info) == (expected.config, expected.info)
    folder = Path(local_path("hf://me/focal")).parent
    assert {path.name for path in folder.iterdir()} == set(model_files)
    assert not hub.asked("GET .*(bin|README|msgpack|onnx)")


def test_the_public_function_takes_an_address_and_so_does_a_path_object(hub, model_files):
    hub.add("me/focal", model_files)
    logits = [
        focalnet_jax.load_model(path)(np.ones((1, 32, 32, 3))) for path in ("hf://me/focal", Path("hf://me/focal"))
    ]
    assert np.array_equal(*logits)


def test_shards_are_downloaded_by_their_index(hub, model_files, expected):
    files = in_shards(model_files)
    hub.add("me/focal", files | {"pytorch_model.bin": b"x"})
    assert same(read_weights("hf://me/focal"), expected)
    assert {path.name for path in Path(local_path("hf://me/focal")).parent.iterdir()} == set(files)


def test_a_shard_that_the_repository_lacks_is_named(hub, model_files):
    files = in_shards(model_files)
    del files["model-00002-of-00002.safetensors"]
    hub.add("me/focal", files)
    with pytest.raises(UserError, match=r"hf://me/focal/model-00002-of-00002\.safetensors: there is no such file"):
        read_weights("hf://me/focal")


def test_a_file_in_a_folder_is_read_with_the_description_next_to_it(hub, model_files, expected):
    folder = {f"run 1/best/{name}": content for name, content in model_files.items()}
    hub.add("me/focal", folder | {"config.json": b"{}", "other.pth": b"x"})
    for address in ("hf://me/focal/run 1/best", "hf://me/focal/run 1/best/model.safetensors"):
        found = read_weights(address)
        assert same(found, expected)
        assert found.config == expected.config


def test_a_revision_is_a_branch_a_commit_or_a_pull_request(hub, model_files):
    repository = hub.add("me/focal", {WEIGHTS: (GOLDEN / "timm_lrf.safetensors").read_bytes()})
    first = repository.refs["main"]
    repository.commit(model_files, "refs/pr/3")
    repository.commit(model_files, "feature/x")
    for revision in ("refs/pr/3", "feature%2Fx"):
        assert read_weights(f"hf://me/focal@{revision}").format == "huggingface"
    repository.commit(model_files)
    options = dict(use_postln=False, normalize_modulator=False)
    old = read_weights(f"hf://me/focal@{first}", options=options)
    assert old.format == "timm"
    assert old.notes[0] == f"model.safetensors of commit {first} of hf://me/focal"
    assert read_weights("hf://me/focal").format == "huggingface"


def test_a_process_keeps_to_one_commit_and_a_later_one_gets_the_newer(hub, model_files):
    repository = hub.add("me/focal", model_files)
    first = fingerprint("hf://me/focal")
    newer = repository.commit({"config.json": model_files["config.json"] + b"\n"})
    assert fingerprint("hf://me/focal") == first != f"{newer}/{WEIGHTS}"
    fetch.cache_clear()  # as another process
    assert fingerprint("hf://me/focal") == f"{newer}/{WEIGHTS}"
    assert origin("hf://me/focal")[0].startswith(f"{WEIGHTS} of commit {newer}")
    assert (fingerprint("a/path"), origin("a/path")) == (None, ())


def test_what_the_cache_holds_is_not_downloaded_again(hub, model_files):
    hub.add("me/focal", model_files)
    read_weights("hf://me/focal")
    fetch.cache_clear()
    hub.requests.clear()
    read_weights("hf://me/focal")
    assert not hub.asked(FILE)


def test_a_file_of_a_commit_in_the_cache_needs_no_hub(hub, model_files):
    commit = hub.add("me/focal", model_files).refs["main"]
    read_weights(f"hf://me/focal@{commit}/{WEIGHTS}")
    fetch.cache_clear()
    hub.requests.clear()
    read_weights(f"hf://me/focal@{commit}/{WEIGHTS}")
    assert not hub.asked("me/focal")
    (Path(local_path(f"hf://me/focal@{commit}/{WEIGHTS}")).parent / "config.json").unlink()
    fetch.cache_clear()
    assert read_weights(f"hf://me/focal@{commit}/{WEIGHTS}").info.preprocessing  # what describes it is fetched again


@pytest.mark.parametrize("shards", [False, True])
def test_offline_the_cache_serves_what_it_holds_and_nothing_else(
    hub, model_files, expected, shards, monkeypatch, capfd
):
    from huggingface_hub import constants

    repository = hub.add("me/focal", in_shards(model_files) if shards else model_files)
    path = Path(local_path("hf://me/focal"))
    fetch.cache_clear()
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same(read_weights("hf://me/focal"), expected)
    assert not hub.requests
    said = f"note: hf://me/focal: HF_HUB_OFFLINE is set; {path.name} of commit {repository.refs['main']} in the cache"
    assert capfd.readouterr().err == f"{said} is used\n"
    for address in ("hf://me/other", "hf://me/focal@v2"):
        with pytest.raises(RunFailedError, match=f"{address} is not in the cache .*, and HF_HUB_OFFLINE is set"):
            read_weights(address)
    fetch.cache_clear()
    (path.parent / "model-00002-of-00002.safetensors" if shards else path).unlink()
    with pytest.raises(RunFailedError, match="HF_HUB_OFFLINE is set"):
        read_weights("hf://me/focal")


def test_another_file_that_was_fetched_by_its_name_is_not_taken_for_the_model(hub, model_files, expected, capfd):
    other = (GOLDEN / "timm_lrf.safetensors").read_bytes()
    commit = hub.add("me/focal", model_files | {"other.safetensors": other}).refs["main"]
    local_path(f"hf://me/focal@{commit}/other.safetensors")
    assert same(read_weights(f"hf://me/focal@{commit}"), expected)
    capfd.readouterr()
    (Path(local_path(f"hf://me/focal@{commit}"))).unlink()
    (Path(local_path(f"hf://me/focal@{commit}")).parent / "config.json").unlink()
    fetch.cache_clear()
    hub.fail("api/models", status=503)
    assert Path(local_path(f"hf://me/focal@{commit}")).name == "other.safetensors"
    assert "; other.safetensors of commit" in (said := capfd.readouterr().err)
    assert "without config.json, which the cache lacks" in said


def test_weights_that_change_on_the_way_are_found_and_not_kept(hub, model_files, expected):
    hub.add("me/focal", model_files)
    hub.fail("GET /cdn", flipped=True)
    for _ in range(2):
        with pytest.raises(
            RunFailedError, match=r"model.safetensors was damaged during the download \(its SHA-256 differs\)"
        ):
            read_weights("hf://me/focal")
    hub.faults.clear()
    assert same(read_weights("hf://me/focal"), expected)


@pytest.mark.parametrize("at_commit", [False, True])
def test_damaged_weights_in_the_cache_are_downloaded_again(hub, model_files, expected, at_commit, capfd):
    commit = hub.add("me/focal", model_files).refs["main"]
    address = f"hf://me/focal@{commit}/{WEIGHTS}" if at_commit else "hf://me/focal"
    path = Path(local_path(address))
    content = path.read_bytes()
    path.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    fetch.cache_clear()
    assert same(read_weights(address), expected)
    assert f"{path} in the hub's cache was damaged (its SHA-256 differs) and is removed" in capfd.readouterr().err


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_cannot_answer_now_leaves_the_cache(hub, model_files, expected, status, capfd):
    commit = hub.add("me/focal", model_files).refs["main"]
    local_path("hf://me/focal")
    hub.fail("api/models", status=status)
    fetch.cache_clear()
    assert same(read_weights("hf://me/focal"), expected)
    assert f"({status})" in (note := capfd.readouterr().err)
    assert f"; {WEIGHTS} of commit {commit} in the cache is used" in note
    shutil.rmtree(os.environ["HF_HOME"])
    fetch.cache_clear()
    with pytest.raises(RunFailedError, match=rf"hf://me/focal: the hub .*\({status}\)"):
        read_weights("hf://me/focal")


def test_no_connection_is_one_line(hub, model_files, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(RunFailedError, match=r"hf://me/focal: http://127.0.0.1:9 cannot be reached \(.*refused\)"):
        read_weights("hf://me/focal")


def test_private_and_gated_repositories_and_wrong_tokens_say_what_to_do(hub, model_files, monkeypatch):
    hub.add("me/private", model_files, private=True)
    hub.add("me/gated", model_files, gated=True)
    hub.add("me/focal", model_files)
    with pytest.raises(UserError, match=r"hf://me/private does not exist on http.*, or is private.*HF_TOKEN"):
        read_weights("hf://me/private")
    with pytest.raises(UserError, match=r"hf://me/gated is gated: accept its conditions on http.*/me/gated"):
        read_weights("hf://me/gated")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match=r"hf://me/focal: the hub rejects the token \(401\)"):
        read_weights("hf://me/focal")
    monkeypatch.setenv("HF_TOKEN", READER)
    assert read_weights("hf://me/private").count
    with pytest.raises(UserError, match=r"hf://me/none does not exist"):
        read_weights("hf://me/none")
    with pytest.raises(UserError, match=r"hf://me/focal has no revision 'v9'"):
        read_weights("hf://me/focal@v9")


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(hub, model_files, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READER)
    hub.add("me/focal", model_files, private=True)
    read_weights("hf://me/focal")
    tokens = {
        path.startswith("/cdn"): headers.get("authorization") for _, path, headers in hub.requests if "me/" in path
    }
    assert tokens == {False: f"Bearer {READER}", True: None}


def test_a_download_that_is_cut_resumes_where_it_was(hub, model_files, expected, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)  # whole chunks are kept
    hub.add("me/focal", model_files)
    hub.fail("GET /cdn", cut_after=20_000, times=1)
    with contextlib.suppress(RunFailedError):  # the library's first versions resume in the next process only
        read_weights("hf://me/focal")
    assert same(read_weights("hf://me/focal"), expected)
    ranges = [headers.get("range") for _, path, headers in hub.requests if path.startswith("/cdn")]
    assert ranges in ([None, "bytes=16384-"], [None, "bytes=20000-"])


def test_a_connection_that_stays_cut_is_one_line_and_leaves_no_weights(hub, model_files, expected, monkeypatch):
    hub.add("me/focal", model_files)
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the library's attempts
    hub.fail("GET /cdn", cut_after=0)
    with pytest.raises(
        RunFailedError, match=r"hf://me/focal/model.safetensors: the connection to .* was interrupted; start"
    ):
        read_weights("hf://me/focal")
    hub.faults.clear()
    assert same(read_weights("hf://me/focal"), expected)


def test_a_full_disk_is_said_as_for_other_files(hub, model_files, monkeypatch):
    import errno

    import huggingface_hub

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "/cache")

    hub.add("me/focal", model_files)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(OSError, match="No space left") as error:  # `run_command` makes one line of it
        read_weights("hf://me/focal")
    assert error.value.errno == errno.ENOSPC


def test_an_endpoint_that_is_no_hub_is_named(hub, model_files):
    hub.add("me/focal", model_files)
    hub.fail("api/models", status=418)
    with pytest.raises(RunFailedError, match="hf://me/focal: the hub answered 418"):
        read_weights("hf://me/focal")
