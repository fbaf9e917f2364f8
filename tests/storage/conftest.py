"""The server, and a run in its bucket."""

import asyncio
import json
from types import SimpleNamespace

import gcsfs.retry
import pytest

from focalnet_jax.storage import download
from tests.commands import EVERY, SMALL, run
from tests.data.preparing import prepare
from tests.storage.bucket import Server
from tests.storage.copies import BLOCK, FILES
from tests.storage.proxy import Proxy

RUN = [*SMALL, *EVERY]
SMALL_FILES = ["--shard-mb", "0.05", "--processes", "1"]
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


def use(server, monkeypatch):
    """Lets this process use a server or a proxy."""
    for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
        monkeypatch.setenv(name, server.environment[name])


@pytest.fixture
def here(server, monkeypatch):
    """The server, used by this process too."""
    use(server, monkeypatch)
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
    use(behind, monkeypatch)
    sleep = asyncio.sleep
    monkeypatch.setattr(gcsfs.retry, "asyncio", SimpleNamespace(sleep=lambda seconds: sleep(seconds / 1000)))
    before = behind.server.versions()
    yield behind
    behind.faults.clear()
    assert behind.server.versions() == before


@pytest.fixture(scope="session")
def prepared(photos, server, tmp_path_factory):
    """A prepared data set of several files, on a disk and at gs://bucket/prepared."""
    out = tmp_path_factory.mktemp("prepared")
    done = prepare("imagefolder", "--source", photos, "--out", out, *SMALL_FILES)
    assert done.returncode == 0, done.stderr
    assert len(list(out.glob("*/*/*array_record*"))) > 3
    server.copy_from(out, "prepared")
    server.copy_from(photos, "photos")
    return out


@pytest.fixture
def folder(here, request):
    """The name of a folder in the bucket with `FILES`."""
    name = f"cached/{request.node.name}".replace("[", "-").replace("]", "")
    for file, content in FILES.items():
        here.write(f"{name}/{file}", content)
    return name


@pytest.fixture
def requested(monkeypatch):
    """The names and ranges of requests for content, in order."""
    log, read = [], download.read_range

    def logged(path, start, end):
        log.append((path.name, start, end))
        return read(path, start, end)

    monkeypatch.setattr(download, "read_range", logged)
    monkeypatch.setattr(download, "BLOCK", BLOCK)
    return log
