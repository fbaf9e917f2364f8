"""Starts commands in forked processes that have the libraries loaded, which takes most of a short command's time."""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

# The libraries that commands import, but not the commands' modules, because runpy warns if these are loaded already.
_LOADED = [
    "focalnet_jax.training.loop",
    "focalnet_jax.training.evaluate_checkpoint",
    "focalnet_jax.convert.write",
    "focalnet_jax.distributed.startup",
    "focalnet_jax.programs.restarts",
    "tests.loaded",
]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_LOADED)


class Forked:
    """Works like `subprocess.Popen(command, env=env, stdout=PIPE, stderr=PIPE, text=True)` for a Python command."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._command = command
        with tempfile.TemporaryDirectory() as folder:
            pipes = [str(Path(folder, name)) for name in ("stdout", "stderr")]
            for pipe in pipes:
                os.mkfifo(pipe)
            self._process = _CONTEXT.Process(target=_become, args=(command, dict(env), os.getcwd(), pipes))
            self._process.start()
            self.stdout, self.stderr = (open(pipe) for pipe in pipes)  # noqa: SIM115 (communicate closes them)
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or None while the process runs."""
        return self._process.exitcode

    poll = returncode.fget

    def send_signal(self, number: int) -> None:
        """Sends a signal to a process that has not ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills the process."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end; returns the output that has not been read yet."""
        outputs: list[str] = ["", ""]

        def read(index: int, pipe) -> None:
            with pipe:
                outputs[index] = pipe.read()

        readers = [threading.Thread(target=read, args=each) for each in enumerate((self.stdout, self.stderr))]
        for reader in readers:
            reader.start()
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self._command, timeout)
        for reader in readers:
            reader.join(timeout)
        return outputs[0], outputs[1]


def _become(command: list[str], env: dict[str, str], cwd: str, pipes: list[str]) -> None:
    for number, path in enumerate(pipes, start=1):
        pipe = os.open(path, os.O_WRONLY)
        os.dup2(pipe, number)
        os.close(pipe)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (those of a process are open to its end)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.orig_argv = command
    if command[1] == "-m":
        sys.argv = command[2:]
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command[1:]
        runpy.run_path(command[1], run_name="__main__")
