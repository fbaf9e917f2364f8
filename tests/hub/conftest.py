"""A hub on loopback for the tests of this folder, and a cache of its own for each test."""

import os
import sys

import pytest

from tests.commands import ENVIRONMENT
from tests.hub.server import serving


@pytest.fixture(scope="session")
def _server():
    # huggingface_hub reads its environment when it is imported, so it has one server for all tests of a process.
    assert "huggingface_hub" not in sys.modules
    with serving() as hub:
        os.environ |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        yield hub


@pytest.fixture
def hub(_server, tmp_path, monkeypatch):
    for key in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub home"))
    from huggingface_hub import constants

    from focalnet_jax.hub.datasets import list_files
    from focalnet_jax.hub.download import fetch

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub home" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hub home" / "token"))
    _server.repositories.clear()
    _server.objects.clear()
    _server.faults.clear()
    _server.requests.clear()
    fetch.cache_clear()
    list_files.cache_clear()
    yield _server
    fetch.cache_clear()
    list_files.cache_clear()


@pytest.fixture
def environment(hub, tmp_path):
    """The environment of a command that finds the hub and this test's cache."""
    ours = ("HF_ENDPOINT", "HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HOME")
    return ENVIRONMENT | {key: os.environ[key] for key in ours}


@pytest.fixture(scope="session")
def model_files(tmp_path_factory):
    """The files of a directory of transformers with a small model, by name."""
    from tests.convert.golden_files import in_a_directory

    folder = in_a_directory(tmp_path_factory.mktemp("model") / "model")
    return {path.name: path.read_bytes() for path in folder.iterdir()}
