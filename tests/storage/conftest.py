"""The server, and a run in its bucket."""

import asyncio
import json
from types import SimpleNamespace

import gcsfs.retry
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


@pytest.fixture(scope="module")
def behind(finished):
    """A proxy whose bucket has a copy of `finished`, with the name `run`."""
    proxy = Proxy()
    proxy.server.copy_from(finished[0], "run")
    yield proxy
    proxy.close()


@pytest.fixture
def bucket(behind, monkeypatch):
    """The proxy, used by this process without the pauses between repeated requests; a test changes no object."""
    for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
        monkeypatch.setenv(name, behind.environment[name])
    sleep = asyncio.sleep
    monkeypatch.setattr(gcsfs.retry, "asyncio", SimpleNamespace(sleep=lambda seconds: sleep(seconds / 1000)))
    before = behind.server.versions()
    yield behind
    behind.faults.clear()
    assert behind.server.versions() == before
