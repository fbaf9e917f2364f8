"""The launcher starts a program as several processes, and ends all of them if one fails."""

import subprocess
import sys
import time

import pytest

from focalnet_jax.launch import __main__ as launcher
from tests.commands import assert_one_line_mistake, run


@pytest.mark.parametrize("failing", [0, 1])
def test_when_any_process_fails_the_launcher_ends_the_others(failing, monkeypatch, capfd):
    monkeypatch.setattr(launcher, "_GRACE_SECONDS", 1.0)
    programs = ["import time; time.sleep(60)", "import time; time.sleep(60)"]
    programs[failing] = "import sys; sys.exit(3)"
    processes = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
    begun = time.monotonic()
    assert launcher._wait(processes) == 3
    assert time.monotonic() - begun < 30
    assert (
        f"process {failing} ended with exit code 3; sending SIGTERM to process {1 - failing}" in capfd.readouterr().err
    )


def test_the_last_line_of_a_process_is_printed_however_late(monkeypatch, tmp_path, capfd):
    (tmp_path / "fails.py").write_text("import sys; print('failed: why', file=sys.stderr); sys.exit(3)")
    at_once = launcher._print_stderr

    def late(process, index):
        process.wait()
        time.sleep(1)
        at_once(process, index)

    monkeypatch.setattr(launcher, "_print_stderr", late)
    assert launcher.main(["--processes", "2", "--", str(tmp_path / "fails.py")]) == 3
    assert "[1] failed: why\n" in capfd.readouterr().err


def test_the_launcher_refuses_a_command_that_is_no_program_and_starts_one_that_is(tmp_path, capfd):
    flags = ["--processes", "2", "--"]
    assert_one_line_mistake(run("-m", "focalnet_jax.launch", *flags, "trian.py"), "expected a Python script")
    assert_one_line_mistake(run("-m", "focalnet_jax.launch", *flags), "expected a Python script")
    # In one go: what two processes print may otherwise mix.
    says = "import os, sys; os.write(1, (os.environ['JAX_PROCESS_ID'] + '\\n').encode()); sys.exit(7)"
    (tmp_path / "says.py").write_text(says)
    assert launcher.main([*flags, str(tmp_path / "says.py")]) == 7
    assert sorted(capfd.readouterr().out.split()) == ["0", "1"]
