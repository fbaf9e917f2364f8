"""convert SRC hf://ORG/NAME: what is shown, what is sent, and the model card."""

import json
import re

import pytest

from focalnet_jax.convert.weights import read_weights
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.hub.address import parse_address
from focalnet_jax.hub.download import fetch
from focalnet_jax.hub.library import explained
from tests.commands import FOLDER, assert_one_line_mistake, run
from tests.convert.golden_files import GOLDEN, OPTIONS
from tests.hub.handler import READER, TOKEN

ADDRESS = "hf://tester/photos"
SOURCE = [GOLDEN / "timm_lrf.safetensors"]
STATED = [f"--option={key}={str(value).lower()}" for key, value in OPTIONS["timm_lrf"].items()]
SENT = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}


@pytest.fixture
def writer(environment):
    return environment | {"HF_TOKEN": TOKEN}


def convert(env, *arguments, source=SOURCE, to="huggingface"):
    return run("-m", "focalnet_jax.convert", *source, ADDRESS, "--to", to, *STATED, *arguments, env=env)


def card_of(stdout):
    lines = [
        line.removeprefix("card").removeprefix("      ") for line in stdout.splitlines() if line.startswith("card")
    ]
    return "\n".join(lines) + "\n"


def test_without_upload_the_files_and_the_card_are_shown_and_nothing_is_sent(hub, writer):
    done = convert(writer, "--license=mit")
    assert done.returncode == 0, done.stderr
    assert f"to        {ADDRESS}, a new private repository: 4 files" in done.stdout
    assert {line.split()[1] for line in done.stdout.splitlines() if line.startswith("file ")} == SENT
    assert card_of(done.stdout).startswith("---\nlicense: mit\nlibrary_name: transformers\n")
    assert done.stdout.splitlines()[-1] == "nothing was sent: add --upload to send it"
    assert not hub.asked("^(POST|PUT)")
    assert not hub.repositories


def test_upload_sends_what_was_shown_and_it_reads_back(hub, writer, monkeypatch):
    done = convert(writer, "--upload")
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["tester/photos"]
    assert repository.private
    assert set(repository.files()) == SENT | {".gitattributes"}
    assert done.stdout.splitlines()[-1] == f"sent      {hub.url}/tester/photos/commit/{repository.refs['main']}"
    assert repository.files()["README.md"].decode() == card_of(done.stdout)
    assert hub.asked("POST .*lfs/objects/batch")  # large files go by their own way
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetch.cache_clear()
    assert read_weights(ADDRESS).count == read_weights(*SOURCE, options=OPTIONS["timm_lrf"]).count


def test_a_public_repository_is_asked_for_and_a_format_of_timm_has_its_own_card(hub, writer):
    done = convert(writer, "--upload", "--no-private", to="timm")
    assert done.returncode == 0, done.stderr
    assert not hub.repositories["tester/photos"].private
    assert set(hub.repositories["tester/photos"].files()) == {
        "README.md",
        "config.json",
        "model.safetensors",
        ".gitattributes",
    }
    assert "library_name: timm" in card_of(done.stdout)


def test_files_of_the_repository_are_replaced_only_with_overwrite(hub, writer):
    repository = hub.add("tester/photos", {"README.md": b"mine", "pytorch_model.bin": b"x"})
    commit = repository.refs["main"]
    shown = convert(writer)
    assert "an existing public repository" in shown.stdout
    assert "README.md  " in (line := next(line for line in shown.stdout.splitlines() if "replaces" in line))
    assert line.endswith(", replaces the file in the repository")
    assert "the repository keeps pytorch_model.bin, which may describe another model" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "nothing was sent: add --upload --overwrite to send it"
    refused = convert(writer, "--upload")
    assert_one_line_mistake(refused, f"{ADDRESS} already has README.md; nothing was sent: give --overwrite")
    assert repository.refs["main"] == commit
    assert convert(writer, "--upload", "--overwrite").returncode == 0
    assert repository.files()["README.md"] != b"mine"
    assert repository.files()["pytorch_model.bin"] == b"x"


def test_a_commit_of_someone_else_in_between_is_not_overwritten(hub, writer):
    hub.add("tester/photos", {"notes.txt": b"1"})
    hub.fail("POST .*/commit/main", status=412)
    done = convert(writer, "--upload")
    assert (done.returncode, done.stderr.splitlines()[-1].startswith("failed: hf://tester/photos")) == (1, True)
    assert "412" in done.stderr


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "the hub requires a login (401): log in with `hf auth login`"),
        ("hf_wrong", "the hub rejects the token (401)"),
        (READER, "the token has no permission to write this repository (403)"),
    ],
)
def test_without_the_right_to_write_one_line_says_so(hub, environment, token, message):
    done = convert(environment | ({"HF_TOKEN": token} if token else {}), "--upload")
    assert_one_line_mistake(done, message)
    assert not hub.repositories


def test_an_upload_that_is_cut_sends_nothing_and_works_the_next_time(hub, writer):
    hub.fail("PUT /upload", status=403)
    done = convert(writer, "--upload")
    assert done.returncode in (1, 2)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(("failed: hf://tester/photos", "error: hf://tester/photos"))
    assert last.endswith("the new repository tester/photos exists now and is empty")
    assert set(hub.repositories["tester/photos"].files()) == {".gitattributes"}
    hub.faults.clear()
    assert convert(writer, "--upload").returncode == 0
    assert set(hub.repositories["tester/photos"].files()) > SENT


@pytest.mark.parametrize(
    ("destination", "flags", "message"),
    [
        ("hf://tester/photos", ["--to=orbax"], "expected --to huggingface or timm"),
        ("hf://tester/photos@v1", ["--to=timm"], "expected a repository to upload to: give hf://tester/photos"),
        ("hf://tester/photos/x.pth", ["--to=timm"], "expected a repository to upload to"),
        ("hf:/tester/photos", ["--to=timm"], "Did you mean 'hf://tester/photos'?"),
        ("hf://tester/photos", ["--to=timm", "--license=All rights"], "expected an identifier of the hub, such as mit"),
        ("x.safetensors", ["--to=timm", "--upload"], "--upload is for a destination on the hub"),
        ("x.safetensors", ["--to=timm", "--no-private"], "--no-private is for a destination on the hub"),
    ],
)
def test_flags_that_do_not_fit_the_destination_are_refused(hub, writer, destination, flags, message):
    done = run("-m", "focalnet_jax.convert", *SOURCE, destination, *STATED, *flags, env=writer)
    assert_one_line_mistake(done, message)
    assert not hub.requests


def test_the_card_of_a_run_states_its_data_figures_settings_and_command(hub, writer, photos, tmp_path):
    workdir, small = tmp_path / "run", [*FOLDER, f"--config.data.path={photos}"]
    assert run("train.py", *small, "--workdir", workdir, env=writer).returncode == 0
    done = convert(writer, "--upload", source=[workdir], to="huggingface")
    assert done.returncode == 0, done.stderr
    card = card_of(done.stdout)
    figures = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    top1 = next(row["eval/top1"] for row in reversed(figures) if "eval/top1" in row)
    assert f"| top-1 | {top1:.4g} % |" in card
    assert f'    - type: accuracy\n      name: "top-1"\n      value: {top1:.4g}\n' in card
    assert f"| data | folder, {photos.name} |" in card
    assert "| images | 24 |" in card
    assert "| step | 3 |" in card
    assert "model.embed_dim = 16" in card
    assert str(photos) not in card.partition("Command:")[0]
    assert f"python train.py {FOLDER[0]}" in card.partition("Command:")[2]
    measured = run("eval.py", *small, "--checkpoint", ADDRESS, env=writer)
    result = json.loads(measured.stdout.splitlines()[-1])
    assert result["top1"] == pytest.approx(top1, abs=1e-6)
    assert result["checkpoint"].startswith(f"{ADDRESS} (huggingface; float32; model.safetensors of commit ")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("client error (404 Not Found)", "hf://tester/photos: the hub answered 404: "),
        ("client error (403 Forbidden)", "the token has no permission to write this repository (403)"),
        ("server error (503 Service Unavailable)", "the hub has an internal error (503)"),
    ],
)
def test_an_answer_to_the_library_of_large_files_is_not_a_missing_connection(answer, message):
    text = f"Network error: Request error: HTTP status {answer}, domain: http://127.0.0.1:1/xet-write-token/main"
    expected = pytest.raises((UserError, RunFailedError), match=re.escape(message))
    with expected, explained(parse_address(ADDRESS), writing=True):
        raise ConnectionError(text)
