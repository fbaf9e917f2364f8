"""Training, evaluation and conversion in a thread of another program leave the process unchanged."""

import gc
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

from focalnet_jax import eval as evaluating
from focalnet_jax import train as training
from focalnet_jax.convert import __main__ as converting
from focalnet_jax.errors import UserError
from focalnet_jax.programs.restarts import run_again
from tests.commands import SMALL

NUMBERS = (signal.SIGTERM, signal.SIGINT)


def left_behind():
    """Returns the state of the process that a call could change, by name."""
    threads = sorted(thread.name for thread in threading.enumerate() if thread.name in ("signals", "watchdog"))
    return {
        "handlers": [signal.getsignal(number) for number in NUMBERS],
        "threads": threads,
        "path": list(sys.path),
        "excepthook": (sys.excepthook, threading.excepthook),
    }


def pipes():
    """Returns the names of the open pipes of the process."""
    files = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.exists()]
    return {file for file in files if file.startswith("pipe:")}


def in_a_thread(function, *arguments):
    """Runs a function in a thread; returns its result or raises its error."""
    done = []

    def call():
        try:
            done.append(function(*arguments))
        except BaseException as error:
            done.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if isinstance(done[0], BaseException):
        raise done[0]
    return done[0]


def test_a_thread_trains_evaluates_and_converts_and_leaves_the_process_as_it_was(tmp_path, capsys):
    cache = jax.config.jax_compilation_cache_dir
    before, frozen, open_before = left_behind(), gc.get_freeze_count(), pipes()
    workdir = tmp_path / "run"
    short = [*SMALL, "--config.total_steps=2", "--config.schedule.warmup_steps=1"]
    assert in_a_thread(training.main, [*short, f"--workdir={workdir}"]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("signals are left to the calling program") == 1
    assert "finished: 2 steps" in printed.out

    assert in_a_thread(evaluating.main, [*short, f"--checkpoint={workdir}"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["examples"] > 0
    assert in_a_thread(converting.main, [str(workdir), str(tmp_path / "one.safetensors"), "--to", "timm"]) == 0
    assert converting.main([str(workdir), str(tmp_path / "two.safetensors"), "--to", "timm"]) == 0  # in the main thread
    time.sleep(1.5)  # once per second, the watchdog checks whether it is closed
    assert left_behind() == before
    assert pipes() <= open_before
    assert gc.get_freeze_count() <= frozen
    assert jax.config.jax_compilation_cache_dir == cache


def test_a_mistake_in_a_thread_is_raised_there_and_leaves_nothing(tmp_path):
    before = left_behind()
    with pytest.raises(UserError, match="batch_size"):
        in_a_thread(training.main, [*SMALL, "--config.batch_size=7", f"--workdir={tmp_path / 'run'}"])
    assert left_behind() == before


def test_a_thread_restarts_a_program_that_failed(monkeypatch, capsys):
    monkeypatch.setattr("focalnet_jax.programs.restarts._LONGEST_PAUSE", 0.0)
    assert in_a_thread(run_again, [sys.executable, "-c", "raise SystemExit(3)"], 1) == 3
    assert "restarting in" in capsys.readouterr().err
