"""Commands as processes that begin where Python has loaded their libraries: what takes most of a short one's time."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

# What commands import, but not the modules that are run: those would warn of being there already.
_LOADED = [
    "focalnet_jax.training.loop",
    "focalnet_jax.training.standalone",
    "focalnet_jax.convert.write",
    "focalnet_jax.distributed.startup",
    "focalnet_jax.restarts",
]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_LOADED)
_TIMEOUT = 300  # seconds


def forked(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess:
    """As `subprocess.run(command, env=env, capture_output=True, text=True)`; the command is Python's."""
    with tempfile.TemporaryDirectory() as folder:
        said = [str(Path(folder, name)) for name in ("stdout", "stderr")]
        process = _CONTEXT.Process(target=_become, args=(command, dict(env), os.getcwd(), *said))
        process.start()
        process.join(_TIMEOUT)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, _TIMEOUT)
        return subprocess.CompletedProcess(command, process.exitcode, *(Path(path).read_text() for path in said))


def _become(command: list[str], env: dict[str, str], cwd: str, stdout: str, stderr: str) -> None:
    for number, path in ((1, stdout), (2, stderr)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.orig_argv, sys.argv = command, command[1:]
    if command[1] == "-m":
        sys.argv = command[2:]
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(command[1], run_name="__main__")
