"""Signals that ask a run to stop, in a process with many open files."""

import fcntl
import os
import resource
import signal
import time

import pytest

from focalnet_jax.checkpoint.preemption import StopRequest

_SELECTABLE = 1024  # `select` takes only smaller file descriptors


@pytest.fixture
def large_descriptors(monkeypatch):
    """Gives pipes file descriptors that `select` does not take, as a process with that many open files has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, _SELECTABLE + 100), hard))
    pipe = os.pipe

    def moved():
        ends = []
        for end in pipe():
            ends.append(fcntl.fcntl(end, fcntl.F_DUPFD, _SELECTABLE + 1))
            os.close(end)
        return tuple(ends)

    monkeypatch.setattr(os, "pipe", moved)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_signal_is_noticed_by_a_process_with_more_than_1024_open_files(large_descriptors):
    with StopRequest(grace_seconds=300) as request:
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 60
        while request.received is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert request.received is signal.SIGTERM
