"""A run that is stopped, killed or fails loses as little as possible, tested with real processes and signals."""

import http.client
import http.server
import io
import os
import shutil
import signal
import threading
import time

import psutil
import pytest

from focalnet_jax.checkpoint import maintenance
from focalnet_jax.checkpoint.preemption import StopRequest
from focalnet_jax.checkpoint.steps import list_steps
from tests.commands import (
    ENVIRONMENT,
    EVERY,
    FOLDER,
    SMALL,
    assert_one_line_mistake,
    losses,
    metrics,
    run,
    saved_params,
    start,
)


def stopped(number, after_lines, *arguments, workdir):
    """Starts train.py, sends a signal when metrics.jsonl has more than `after_lines` lines, and waits for the end."""
    process = start("train.py", *arguments, "--workdir", workdir)
    path = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (path.exists() and path.read_text().count("\n") > after_lines) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


@pytest.mark.fault(12)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_run_resumes_bit_identical_to_an_undisturbed_one(finished, tmp_path, number):
    undisturbed, _ = finished
    code, stderr = stopped(number, 16, *SMALL, *EVERY, workdir=tmp_path / "run")
    assert code == (-9 if number == signal.SIGKILL else 42), stderr
    reached = max(losses(tmp_path / "run")) if number != signal.SIGKILL else None

    again = run("train.py", *SMALL, *EVERY, "--workdir", tmp_path / "run")
    assert again.returncode == 0, again.stderr
    resumed = int(again.stdout.split("resumed from step ")[1].split()[0])
    if reached is None:
        assert resumed % 7 == 0
        assert resumed > 0
    else:
        assert resumed == reached < 60  # a signal loses no steps
    assert losses(tmp_path / "run") == losses(undisturbed)
    steps = [row["step"] for row in metrics(tmp_path / "run") if "train/loss" in row]
    assert steps == sorted(set(steps))
    assert saved_params(tmp_path / "run", 60) == saved_params(undisturbed, 60)


def test_an_evaluation_cut_short_by_a_signal_is_made_up_for(tmp_path):
    # With one example per batch, the evaluation at step 3 takes long enough that the signal arrives during it.
    arguments = [*SMALL, "--config.total_steps=6", "--config.eval_every_steps=3", "--config.eval_batch_size=1"]
    code, stderr = stopped(signal.SIGINT, 2, *arguments, workdir=tmp_path)
    assert code == 42, stderr
    assert [row["step"] for row in metrics(tmp_path)] == [1, 2, 3]  # stopped during the evaluation
    again = run("train.py", *arguments, "--workdir", tmp_path)
    assert again.returncode == 0, again.stderr
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 3, 4, 5, 6, 6]
    best = max(row["eval/top1"] for row in rows if "eval/top1" in row)
    assert f"best eval/top1 {best:.2f} %" in again.stdout


@pytest.mark.fault(29)
def test_an_unreadable_image_is_named(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "data")
    broken = tmp_path / "data" / "train" / "china" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:999])
    arguments = [*FOLDER, f"--config.data.path={tmp_path / 'data'}", "--workdir", tmp_path / "run"]
    assert_one_line_mistake(run("train.py", *arguments), str(broken))
    steps = ["--config.total_steps=9", "--config.checkpoint_every_steps=4"]
    arguments = [*arguments[:-1], tmp_path / "allowed", *steps, "--config.data.max_unreadable=0.5"]
    allowed = run("train.py", *arguments)
    assert allowed.returncode == 0, allowed.stderr
    assert allowed.stderr.count(str(broken)) == 1  # reported once, however often it occurs
    counted = {row["step"]: row["data/substituted"] for row in metrics(tmp_path / "allowed") if "train/loss" in row}
    assert counted[3] == 1  # once per epoch
    assert counted[9] == 3
    shutil.rmtree(tmp_path / "allowed" / "checkpoints" / "9")
    again = run("train.py", *arguments)
    assert "resumed from step 8" in again.stdout
    assert {
        row["step"]: row["data/substituted"] for row in metrics(tmp_path / "allowed") if "train/loss" in row
    } == counted


def test_a_picture_that_cannot_be_read_costs_no_step(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "data")
    broken = tmp_path / "data" / "val" / "china" / "z.jpg"
    broken.write_text("no picture")
    arguments = [*FOLDER, f"--config.data.path={tmp_path / 'data'}", "--workdir", tmp_path / "run"]
    assert_one_line_mistake(run("train.py", *arguments), str(broken))
    assert sorted(losses(tmp_path / "run")) == [1, 2, 3]
    shutil.copy(broken.with_name("0.jpg"), broken)
    again = run("train.py", *arguments)
    assert again.returncode == 0, again.stderr
    assert [row["step"] for row in metrics(tmp_path / "run")] == [1, 2, 3, 3]  # the evaluation is repeated
    assert "best eval/top1" in again.stdout


def first_line(process, beginning):
    for line in process.stdout:
        if line.startswith(beginning):
            return line
    raise AssertionError(process.communicate()[1])


@pytest.fixture
def compiling(tmp_path):
    """A run whose first step takes much longer to compile than the test. It never ends, so it is not cached."""
    sizes = ["embed_dim=16", "depths=(1,8)", "focal_levels=4", "scan_blocks=false"]
    slow = [
        *(f"--config.model.{size}" for size in sizes),
        "--config.data.image_size=32",
        "--config.data.eval_resize=32",
    ]
    program = tmp_path / "train.py"
    logging = "import jax, runpy; jax.config.update('jax_log_compiles', True)"
    program.write_text(f"{logging}; runpy.run_path('train.py', run_name='__main__')")
    env = ENVIRONMENT | {"XLA_FLAGS": ""}  # optimised
    process = start(program, *SMALL, *slow, "--config.grace_seconds=2", "--workdir", tmp_path / "run", env=env)
    while "Compiling jit(placed)" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.5)
    return process


@pytest.mark.fault(14)
def test_a_signal_while_it_compiles_ends_the_run_at_the_deadline(compiling):
    begun = time.monotonic()
    compiling.send_signal(signal.SIGTERM)
    _, stderr = compiling.communicate(timeout=60)
    assert compiling.returncode == 1
    assert 1.5 < time.monotonic() - begun < 5
    assert "no step was finished and saved within 2 s of SIGTERM" in stderr.splitlines()[-1]


@pytest.mark.fault(14)
def test_a_second_signal_ends_the_run_at_once(compiling):
    compiling.send_signal(signal.SIGTERM)
    while "SIGTERM: finishing" not in compiling.stderr.readline():
        assert compiling.poll() is None
    time.sleep(0.7)
    begun = time.monotonic()
    compiling.send_signal(signal.SIGTERM)
    _, stderr = compiling.communicate(timeout=60)
    assert compiling.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 1.2  # before the deadline
    assert "SIGTERM again: stopped at once" in stderr


@pytest.mark.fault(12)
def test_a_signal_that_comes_twice_at_once_is_one(tmp_path):
    process = start("train.py", *SMALL, "--config.total_steps=1000000", "--workdir", tmp_path)
    first_line(process, "first step")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.05)  # like a program that signals a process and then its group
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 42, stderr
    assert list_steps(tmp_path / "checkpoints") == [max(losses(tmp_path))]


@pytest.mark.fault(12)
def test_a_signal_in_the_last_evaluation_costs_no_step(tmp_path):
    slow = ["--config.eval_batch_size=1", "--config.checkpoint_every_steps=1000", "--config.data.eval_resize=64"]
    arguments = [*SMALL, "--config.total_steps=3", *slow, "--config.data.image_size=64", "--workdir", tmp_path]
    process = start("train.py", *arguments)
    first_line(process, "step 3/3")
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 42, stderr
    assert "saved at step 3" in stdout
    assert not any("eval/top1" in row for row in metrics(tmp_path))
    again = run("train.py", *arguments)
    assert again.returncode == 0, again.stderr
    assert [row["step"] for row in metrics(tmp_path) if "eval/top1" in row] == [3]


@pytest.mark.fault(16)
def test_a_save_that_hangs_at_the_end_ends_the_run(tmp_path):
    os.mkfifo(tmp_path / ".saved.json.part")  # a write to it blocks until there is a reader
    done = run(
        "train.py", *SMALL, "--config.total_steps=3", "--config.health.watchdog_seconds=4", "--workdir", tmp_path
    )
    assert done.returncode == 1
    assert "failed: no progress for 4 s" in done.stderr
    assert list_steps(tmp_path / "checkpoints") == [3]


@pytest.fixture
def stalling(photos, tmp_path):
    """A data set, and a function that replaces one of its images by a pipe without a writer."""
    shutil.copytree(photos, tmp_path / "data")

    def stall():
        for picture in (tmp_path / "data" / "train").rglob("*.jpg"):
            picture.unlink()
            os.mkfifo(picture)

    arguments = [*FOLDER, f"--config.data.path={tmp_path / 'data'}", "--workdir", tmp_path / "run"]
    return [*arguments, "--config.total_steps=1000000", "--config.data.threads=2"], stall


@pytest.mark.fault(14)
def test_a_signal_while_no_data_come_saves_what_there_is(stalling, tmp_path):
    arguments, stall = stalling
    process = start("train.py", *arguments)
    first_line(process, "first step")
    stall()
    time.sleep(2)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 42, stderr
    assert time.monotonic() - begun < 15
    reached = int(stdout.split("saved at step ")[1].split(";")[0])
    assert (tmp_path / "run" / "checkpoints" / str(reached)).is_dir()
    assert reached == max(losses(tmp_path / "run"))


def told_without_data(stalling, setting):
    """Returns the stderr of a run that receives no more data."""
    arguments, stall = stalling
    process = start("train.py", *arguments, setting)
    first_line(process, "first step")
    stall()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    return stderr.splitlines()


@pytest.mark.fault(16)
def test_a_run_without_data_ends_with_the_stacks_of_its_threads(stalling):
    lines = told_without_data(stalling, "--config.health.watchdog_seconds=3")
    assert lines[0].startswith("failed: no progress for 3 s after step ")
    assert any("loader.py" in line for line in lines)  # the file in which it hangs


@pytest.mark.fault(16)
def test_a_loader_that_hangs_ends_the_run_with_one_line(stalling):
    (line,) = told_without_data(stalling, "--config.data.stall_seconds=3")
    assert line.startswith("failed: no batch was read for 3 s")


def test_a_run_that_is_killed_is_started_again_as_often_as_it_may(finished, tmp_path):
    process = start("train.py", *SMALL, *EVERY, "--max-restarts=2", "--workdir", tmp_path / "run")
    deadline = time.monotonic() + 100
    while not (tmp_path / "run" / "checkpoints" / "7" / "manifest.json").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    (child,) = psutil.Process(process.pid).children()
    child.kill()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert "ended with exit code 137: restarting in 1 s (1 of 2 restarts)" in stderr
    assert losses(tmp_path / "run") == losses(finished[0])
    mistake = run("train.py", *SMALL, "--config.seed=-1", "--max-restarts=5", "--workdir", tmp_path / "other")
    assert_one_line_mistake(mistake, "seed=-1")


def test_a_run_does_not_outlive_who_would_start_it_again(tmp_path):
    process = start("train.py", *SMALL, "--config.total_steps=1000000", "--max-restarts=2", "--workdir", tmp_path)
    first_line(process, "first step")
    (child,) = psutil.Process(process.pid).children()
    process.kill()
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()
    assert list_steps(tmp_path / "checkpoints")


def test_a_notice_is_seen_after_an_answer_that_is_not_http(monkeypatch, capsys):
    answers = iter([http.client.BadStatusLine("garbage"), http.client.IncompleteRead(b""), io.BytesIO(b"TRUE")])

    def answer(*_, **__):
        if isinstance(given := next(answers), Exception):
            raise given
        return given

    monkeypatch.setattr(maintenance, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(maintenance.urllib.request, "urlopen", answer)
    with StopRequest(25.0) as stop, maintenance.watched(on_tpu=True):
        deadline = time.monotonic() + 20
        while stop.received is None and time.monotonic() < deadline:
            time.sleep(0.01)
    assert stop.received == signal.SIGTERM
    assert "this machine is about to be stopped" in capsys.readouterr().err


def test_a_machines_notice_stops_the_run_as_a_signal_does(tmp_path):
    """The test's server imitates Google's metadata server."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = "TRUE" if self.path.endswith("/instance/preempted") else "NONE"
            self.send_response(200 if self.headers["Metadata-Flavor"] == "Google" else 403)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("localhost", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = ENVIRONMENT | {"GCE_METADATA_HOST": f"localhost:{server.server_port}"}
        process = start("train.py", *SMALL, "--config.total_steps=1000000", "--workdir", tmp_path, env=env)
        _, stderr = process.communicate(timeout=120)
        server.shutdown()
    assert process.returncode == 42, stderr
    assert "preempted is TRUE: this machine is about to be stopped" in stderr
