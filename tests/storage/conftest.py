"""The server, and a run in its bucket."""

import json

import pytest

from tests.commands import EVERY, SMALL, run
from tests.storage.bucket import Server
from tests.storage.proxy import Proxy

RUN = [*SMALL, *EVERY]
TIMES = ("images_per_second", "step_seconds", "input_wait", "goodput", "host_memory")


def rows(text):
    """The rows of a metrics.jsonl, without what differs between two equal runs."""
    lines = map(json.loads, text.decode().splitlines())
    return [{key: value for key, value in row.items() if not key.startswith(TIMES)} for row in lines]


@pytest.fixture(scope="session")
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def proxy():
    """A server of its own behind a proxy without faults."""
    proxy = Proxy()
    yield proxy
    proxy.close()


@pytest.fixture
def here(server, monkeypatch):
    """The server, used by this process too."""
    for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
        monkeypatch.setenv(name, server.environment[name])
    return server


@pytest.fixture(scope="session")
def in_bucket(server):
    """The name of a finished run like `finished`, and what it printed."""
    done = run("train.py", *RUN, "--workdir", "gs://bucket/finished", env=server.environment)
    assert done.returncode == 0, done.stderr
    return "finished", done.stdout
