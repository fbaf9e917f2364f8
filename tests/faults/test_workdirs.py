"""A workdir belongs to one run at a time, and to one config."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from focalnet_jax.checkpoint import lock
from focalnet_jax.checkpoint.manager import Checkpoints
from focalnet_jax.config import to_json
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.system.files import write_whole
from focalnet_jax.training.loop import train
from focalnet_jax.training.resume import refuse_other_run
from focalnet_jax.training.writers import MetricsWriter
from tests.commands import SMALL, assert_one_line_mistake, first_line, run, start

LONG = [*SMALL, "--config.total_steps=1000000", "--config.checkpoint_every_steps=20"]


def started(*arguments):
    """Starts train.py as a process; returns after its first step."""
    process = start("train.py", *arguments)
    first_line(process, "first step")
    return process


@pytest.mark.fault(10)
@pytest.mark.fault(11)
def test_a_second_run_is_refused_and_the_lock_of_a_killed_run_is_taken_over(tmp_path):
    first = started(*LONG, "--workdir", tmp_path)
    second = run("train.py", *LONG, "--workdir", tmp_path)
    assert_one_line_mistake(second, f"is used by another run (host {socket.gethostname()}, process {first.pid}, since")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert (tmp_path / lock.LOCK).exists()
    third = started(*LONG, "--workdir", tmp_path)
    third.send_signal(signal.SIGTERM)
    _, stderr = third.communicate()
    assert third.returncode == 42, stderr


@pytest.mark.fault(11)
def test_a_damaged_lock_is_taken_over(tmp_path):
    (tmp_path / lock.LOCK).write_bytes(b"\xff\xfe{")
    with lock.held(tmp_path):
        assert lock.is_held(tmp_path)
    (tmp_path / lock.LOCK).touch()
    os.utime(tmp_path / lock.LOCK, (2e9, 2e9))  # a date in the future
    assert not lock.is_held(tmp_path)


@pytest.mark.fault(7)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # raised in tensorboardX's threads
def test_a_disk_too_full_for_tensorboard_is_an_error(tmp_path, monkeypatch):
    writer = MetricsWriter(tmp_path, 0, ["tensorboard"])
    (thread,) = (thread for thread in writer._others[0]._threads if "EventLogger" in type(thread).__name__)

    handed_over = threading.Event()

    def full(*_):
        handed_over.wait(60)  # otherwise the thread could fail before `write` has returned
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tensorboardX.event_file_writer.EventsWriter.write_event", full)
    writer.write(1, {"train/loss": 1.0})
    handed_over.set()
    thread.join(timeout=60)
    with pytest.raises(RunFailedError, match=r"can no longer be written to .*tensorboard: is the disk full"):
        writer.write(2, {"train/loss": 1.0})
    writer.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


class Service:
    """Imitates a library such as wandb or mlflow, whose function `fails` raises an error."""

    def __init__(self, fails=""):
        self.fails, self.ids, self.info = fails, [], SimpleNamespace(run_id="given")

    def __getattr__(self, name):
        def call(*_, **options):
            if name == self.fails:
                raise LookupError("no such run\nand more about it")
            if name in ("init", "start_run"):
                self.ids.append(options.get("id", options.get("run_id")))
                self.given = options
            return self

        return call


@pytest.mark.parametrize(
    ("name", "fails", "kind"),
    [
        ("wandb", "init", UserError),
        ("wandb", "log", RunFailedError),
        ("wandb", "finish", RunFailedError),
        ("mlflow", "start_run", UserError),
        ("mlflow", "log_dict", UserError),
        ("mlflow", "log_metrics", RunFailedError),
        ("mlflow", "end_run", RunFailedError),
    ],
)
def test_an_error_of_a_service_is_one_line(name, fails, kind, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, Service(fails))
    with pytest.raises(kind, match=rf"^writers: {name} failed \(no such run\); check its settings") as caught:  # noqa: PT012
        writer = MetricsWriter(tmp_path, 0, [name])
        writer.write(1, {"train/loss": 1.0})
        writer.close()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_run_keeps_its_id_in_a_service_but_not_an_empty_one(name, tmp_path, monkeypatch):
    service, file = Service(), tmp_path / f"{name}_id.txt"
    monkeypatch.setitem(sys.modules, name, service)
    file.write_text("\n")  # the result of a full disk
    for _ in range(2):
        MetricsWriter(tmp_path, 0, [name]).close()
    assert service.ids[0] != ""
    assert service.ids[1] == file.read_text().strip() != ""


@pytest.mark.parametrize(("name", "key"), [("wandb", "name"), ("mlflow", "run_name")])
@pytest.mark.parametrize("title", ["", "in-a-bucket"])
def test_a_run_has_the_name_of_its_workdir_in_a_service(name, key, title, tmp_path, monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, name, service)
    MetricsWriter(tmp_path, 0, [name], title=title).close()
    assert service.given[key] == (title or tmp_path.name)


@pytest.mark.fault(8)
def test_a_workdir_that_cannot_be_written_is_refused_before_anything_is_compiled(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", place]
    mounted = not subprocess.run(mount, capture_output=True).returncode
    if not mounted:
        place.chmod(0o555)  # prevents writing, except for root, which can mount a file system
    try:
        done = run("train.py", *SMALL, "--workdir", place / "run")
    finally:
        if mounted:
            subprocess.run(["umount", place], check=True)
        place.chmod(0o755)
    assert_one_line_mistake(done, f"{'Read-only file system' if mounted else 'Permission denied'}; choose another")
    assert "first step" not in done.stdout


@pytest.mark.fault(8)
def test_a_directory_with_the_name_of_the_metrics_file_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    assert_one_line_mistake(run("train.py", *SMALL, "--workdir", tmp_path), "metrics.jsonl: Is a directory")


@pytest.mark.fault(7)
def test_a_file_whose_new_content_does_not_fit_is_unchanged(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    write_whole(path, "first")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "second")
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]
    assert path.read_text() == "first"


@pytest.mark.fault(9)
def test_a_workdir_with_another_config_is_refused_with_the_difference(finished):
    other = run("train.py", *SMALL, "--config.schedule.learning_rate=1e-9", "--workdir", finished[0])
    assert_one_line_mistake(other, "schedule.learning_rate was 0.02 and is now 1e-09")
    assert not (finished[0] / lock.LOCK).exists()


@pytest.mark.fault(9)
def test_another_config_may_use_the_workdir_of_a_run_that_never_saved(tmp_path):
    never_saved = load_config("configs/quickstart.py", ["--config.seed=1", "--config.evaluations.seen.split=train"])
    config, path = load_config("configs/quickstart.py"), tmp_path / "config.json"
    path.write_text(to_json(never_saved))
    refuse_other_run(config, tmp_path, None)
    with pytest.raises(UserError, match="seed was 1 and is now 0"):
        refuse_other_run(config, tmp_path, 5)
    for foreign in ({"task": "translation"}, {"vocabulary": 3}, {"model": {"heads": 2}}):
        path.write_text(json.dumps(never_saved.to_dict() | foreign))
        with pytest.raises(UserError, match=next(iter(foreign))):
            refuse_other_run(config, tmp_path, None)


@pytest.mark.fault(43)
def test_a_finished_run_started_again_does_nothing(finished):
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    from tests.commands import EVERY

    again = run("train.py", *SMALL, *EVERY, "--workdir", workdir)
    assert again.returncode == 0
    assert "already has all 60 steps" in again.stdout
    after = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    assert {path.name for path in before if before[path] != after[path]} <= {"config.json", "placement.txt"}


def test_a_run_that_cannot_begin_closes_all_that_it_opened(tmp_path, monkeypatch):
    closed = []

    def noted(kind, and_then=None):
        def close(self, _close=kind.close):
            closed.append(kind)
            _close(self)
            if and_then:
                raise and_then

        monkeypatch.setattr(kind, "close", close)

    noted(Checkpoints)
    noted(MetricsWriter, RunFailedError("a writer fails once more"))
    (tmp_path / "profile").touch()  # a file where a folder is needed
    config = load_config("configs/quickstart.py", [*SMALL[1:], "--config.profile_steps=(1,2)"])
    with pytest.raises(RunFailedError, match="a writer fails") as caught:
        train(config, tmp_path)
    assert "cannot create" in str(caught.value.__context__)
    assert closed == [MetricsWriter, Checkpoints]


def test_only_one_holder_at_a_time_within_a_machine_too(tmp_path):
    together, refused, held = threading.Barrier(8), threading.Semaphore(0), []

    def contend(index):
        together.wait(60)
        try:
            with lock.held(tmp_path / "run"):
                held.append(index)
                for _ in range(7):  # until each of the others has ended with an error
                    assert refused.acquire(timeout=60)
        except UserError:
            refused.release()

    threads = [threading.Thread(target=contend, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1
    assert not list(tmp_path.glob("run/*"))


def test_a_workdir_made_for_nothing_is_removed_and_one_that_was_there_stays(tmp_path):
    (tmp_path / "given").mkdir()
    for workdir in (tmp_path / "made/for/it", tmp_path / "given"):
        with lock.held(workdir):
            assert (workdir / lock.LOCK).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["given"]


def test_a_workdir_that_its_holder_removes_meanwhile_is_made_again(tmp_path, monkeypatch):
    acquire = lock._acquire

    def after_its_removal(path):
        monkeypatch.setattr(lock, "_acquire", acquire)
        path.parent.rmdir()
        return acquire(path)

    monkeypatch.setattr(lock, "_acquire", after_its_removal)
    with lock.held(tmp_path / "run"):
        assert (tmp_path / "run" / lock.LOCK).exists()


def test_a_holder_on_another_machine_is_waited_for_as_long_as_it_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 2.0)
    elsewhere = tmp_path / lock.LOCK
    elsewhere.write_text(json.dumps({"host": "elsewhere", "pid": 1, "begun": "1", "since": "then"}))
    beats = f"import os, time\nwhile True: os.utime({str(elsewhere)!r}); time.sleep(0.3)"
    living = subprocess.Popen([sys.executable, "-c", beats])
    time.sleep(0.5)
    with pytest.raises(UserError, match=r"used by another run \(host elsewhere, process 1"), lock.held(tmp_path):
        pass
    living.kill()
    living.wait()
    begun = time.monotonic()
    with lock.held(tmp_path):
        assert time.monotonic() - begun >= 2
        assert json.loads(elsewhere.read_text())["pid"] == os.getpid()
