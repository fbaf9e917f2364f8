"""Starts commands in forked processes that have the libraries loaded, which takes most of a short command's time."""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from multiprocessing import resource_tracker
from pathlib import Path

from focalnet_jax.system import children

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
    os.chdir(cwd)
    children.subprocess = _InsteadOfSubprocess
    _run(command, env)


def _run(command: list[str], env: dict[str, str]) -> None:
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (those of a process are open to its end)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(env)
    sys.orig_argv = command
    if command[1] == "-m":
        sys.argv = command[2:]
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command[1:]
        runpy.run_path(command[1], run_name="__main__")


class _Child(subprocess.Popen):
    """A child process that is a copy of this process, and so need not load the libraries of its command again."""

    def __init__(self, command, *, env=None, preexec_fn=None, **options) -> None:
        from jax._src import xla_bridge  # loaded in the server

        def run_instead_of_exec() -> None:
            if preexec_fn is not None:
                preexec_fn()
            os.closerange(3, 1024)  # as `exec` does; one of them is the pipe at which the parent waits for it
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            resource_tracker._resource_tracker.__init__()  # its pipe is closed
            multiprocessing.process._parent_process = None
            _exit_with(lambda: _run(command, dict(os.environ if env is None else env)))

        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # The threads of a JAX backend are missing in a copy of its process, which would wait for them forever.
        if command[0] != sys.executable or command[1] == "-c" or xla_bridge.backends_are_initialized():
            super().__init__(command, env=env, preexec_fn=preexec_fn, **options)
        else:
            super().__init__(command, preexec_fn=run_instead_of_exec, restore_signals=False, **options)


class _InsteadOfSubprocess:
    """What `focalnet_jax.system.children` uses of `subprocess`."""

    Popen, PIPE = _Child, subprocess.PIPE


def _exit_with(program) -> None:
    status = 1
    try:
        program()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(status)
