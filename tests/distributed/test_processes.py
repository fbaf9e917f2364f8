"""Several real processes compute one run, with the same losses, common checkpoints and a common end."""

import argparse
import errno
import shutil
import socket
import subprocess
import time
from pathlib import Path

import jax
import pytest

import focalnet_jax
from focalnet_jax.checkpoint.steps import list_steps
from focalnet_jax.distributed import startup
from focalnet_jax.errors import UserError
from focalnet_jax.launch import __main__ as launcher
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.training import agreement, loop
from tests.commands import ENVIRONMENT, FOLDER, SMALL, assert_one_line_mistake, command, metrics, run, start
from tests.processes import SHORT, assert_same_run, launch

EXACT = "[16777217.0, 83.33333333333333, -1.0, 1e+300, -math.inf]"  # float32 can represent two of these values


def test_two_processes_of_four_devices_compute_what_one_does(alone, tmp_path):
    """All axes of the mesh are larger than 1. `data` spans the processes, so each reads half of every batch."""
    mesh = ["--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2"]
    launcher = launch(*SHORT, *mesh, "--workdir", tmp_path, devices=4)
    stdout, stderr = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, stderr
    assert "8 x cpu, 2 process(es), mesh data=2 fsdp=2 tensor=2" in stdout
    assert stdout.count("2 process(es)") == 1  # only one process prints
    assert_same_run(tmp_path, alone)


@pytest.fixture
def damaged(photos, tmp_path):
    """Flags of a run of 4 steps on 24 images, of which 2 are unreadable: each process reads one in the first step."""
    shutil.copytree(photos, tmp_path / "data")
    for number in (1, 6):
        (tmp_path / "data" / "train" / "china" / f"{number}.jpg").write_bytes(b"nothing")
    return [*FOLDER, f"--config.data.path={tmp_path / 'data'}", "--config.total_steps=4", "--workdir", tmp_path / "run"]


def test_what_may_be_unreadable_is_a_share_of_what_all_processes_read(damaged, tmp_path):
    launcher = launch(*damaged, "--config.data.max_unreadable=0.07")  # 1.68 of 24
    _, stderr = launcher.communicate(timeout=300)
    assert launcher.returncode == 2, stderr
    assert "error: 2 of 8 images could not be read, such as " in stderr
    assert list_steps(tmp_path / "run" / "checkpoints") == [2]  # the step at which both know


def test_an_unreadable_image_that_two_processes_read_is_one(damaged, tmp_path):
    shared = ["--config.mesh.data=1", "--config.mesh.tensor=2", "--config.data.max_unreadable=0.1"]
    launcher = launch(*damaged, *shared)
    _, stderr = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, stderr
    assert [row["data/substituted"] for row in metrics(tmp_path / "run") if "data/substituted" in row] == [0, 2, 2, 2]


def by_hand(script, *each, **options):
    """Starts two processes like on two machines; returns their stderr and exit codes.

    Each has its own arguments, and of `options`, lists of two, its own: `env`, or `cwd` for other sources.
    """
    shared = [script, *SMALL, "--coordinator", f"localhost:{launcher._free_local_port()}", "--processes", "2"]
    processes = []
    for index, arguments in enumerate(each):
        own = {name: both[index] for name, both in options.items()}
        called = [*shared, "--process", index, *arguments]
        if "cwd" in own:
            own |= {"env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command(*called), **own) if "cwd" in own else start(*called, **own))
    return [(process.communicate(timeout=120)[1], process.returncode) for process in processes]


def test_processes_of_another_config_refuse_and_name_the_key(tmp_path):
    each = [[f"--config.seed={index}", "--workdir", tmp_path / str(index)] for index in range(2)]
    for index, (stderr, code) in enumerate(by_hand("train.py", *each)):
        assert code == 2
        assert f"the processes of this run differ in seed (here {index})" in stderr
        assert sum("Gloo" not in line for line in stderr.strip().splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_processes_with_different_numbers_of_devices_refuse(tmp_path):
    flags = [{"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"} for count in (4, 2)]
    each = [["--workdir", tmp_path / "run"]] * 2
    for stderr, code in by_hand("train.py", *each, env=[ENVIRONMENT | flag for flag in flags]):
        assert code == 2
        assert "differ in their number of devices (process 0 has 4, process 1 has 2)" in stderr


def test_processes_with_other_sources_refuse(tmp_path):
    here, other = Path(__file__).parents[2], tmp_path / "other"
    for name in ("focalnet_jax", "configs"):
        shutil.copytree(here / name, other / name)
    shutil.copy(here / "train.py", other)
    with (other / "focalnet_jax" / "training" / "step.py").open("a") as file:
        file.write("# not the same\n")
    each = [["--workdir", tmp_path / "run"]] * 2
    for stderr, code in by_hand("train.py", *each, cwd=[here, other]):
        assert code == 2
        assert "differ in the source of focalnet_jax (here" in stderr


@pytest.mark.parametrize("changed", ["training/step.py", "ops/native/rows.h", "ops/native/handlers.cc"])
def test_any_source_that_computes_is_compared(changed, tmp_path, monkeypatch):
    def compared():
        values = {}
        monkeypatch.setattr(agreement, "check_same", values.update)
        agreement.check_same_run(load_config("configs/quickstart.py"))
        return values["the source of focalnet_jax"]

    before, package = compared(), tmp_path / "focalnet_jax"
    shutil.copytree(Path(focalnet_jax.__file__).parent, package)
    monkeypatch.setattr(focalnet_jax, "__file__", str(package / "__init__.py"))
    assert compared() == before
    (package / changed).write_text((package / changed).read_text() + "\n")
    assert compared() != before


def test_the_first_process_gives_every_number_to_the_bit(tmp_path):
    script = f"""
import argparse, math
from pathlib import Path
from focalnet_jax.distributed.host_values import from_first
from focalnet_jax.distributed.startup import connect, is_first
connect(argparse.Namespace(coordinator=None, processes=None, process=None, coordinator_timeout=100))
numbers = {EXACT}
here = [from_first(number if is_first() else 7.0) for number in numbers]
Path({str(tmp_path)!r}, "first" if is_first() else "second").write_text(repr(here))
"""
    (tmp_path / "exact.py").write_text(script)
    done = run("-m", "focalnet_jax.launch", "--processes", 2, "--devices-per-process", 1, "--", tmp_path / "exact.py")
    assert done.returncode == 0, done.stderr
    for name in ("first", "second"):
        assert (tmp_path / name).read_text() == EXACT.replace("math.", "")


def test_only_the_settings_that_some_processes_lack_are_named(tmp_path):
    script = f"""
import argparse
from pathlib import Path
from focalnet_jax.distributed.host_values import check_same
from focalnet_jax.distributed.startup import connect, is_first
from focalnet_jax.errors import UserError
connect(argparse.Namespace(coordinator=None, processes=None, process=None, coordinator_timeout=100))
both = {{"data.path": "x", "seed": "0"}}
check_same(both if is_first() else dict(reversed(both.items())))  # in any order
try:
    check_same(both | ({{"first": "1"}} if is_first() else {{"second": "2", "zürich": "3"}}))
except UserError as error:
    Path({str(tmp_path)!r}, "first" if is_first() else "second").write_text(str(error))
"""
    (tmp_path / "settings.py").write_text(script)
    flags = ["--processes", 2, "--devices-per-process", 1]
    done = run("-m", "focalnet_jax.launch", *flags, "--", tmp_path / "settings.py")
    assert done.returncode == 0, done.stderr
    for name in ("first", "second"):
        message = (tmp_path / name).read_text()
        assert message.startswith(
            "only some processes of this run have first, second, zürich: start all processes with"
        )


def test_processes_that_do_not_share_a_workdir_or_a_checkpoint_refuse(finished, tmp_path):
    each = [["--workdir", tmp_path / str(index)] for index in range(2)]
    for stderr, code in by_hand("train.py", *each):
        assert code == 2
        assert "differ in --workdir (here" in stderr
    workdir, _ = finished
    each = [["--checkpoint", workdir], ["--checkpoint", workdir / "checkpoints" / "49"]]
    for stderr, code in by_hand("eval.py", *each):
        assert code == 2
        assert "differ in --checkpoint (here" in stderr


def test_a_port_that_somebody_listens_at_is_refused(tmp_path):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        flags = ["--coordinator", f"localhost:{port}", "--processes", 2, "--process", 0]
        done = run("train.py", *SMALL, *flags, "--workdir", tmp_path / "run")
    assert_one_line_mistake(done, f"--coordinator localhost:{port}: process 0 cannot listen there")


def test_a_port_is_tested_on_a_machine_without_ipv6(monkeypatch):
    made = socket.socket

    def without_ipv6(family=socket.AF_INET, *rest):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return made(family, *rest)

    with socket.create_server(("", 0)) as taken:
        address = f"localhost:{taken.getsockname()[1]}"
        monkeypatch.setattr(socket, "socket", without_ipv6)
        with pytest.raises(UserError, match=f"--coordinator {address}: process 0 cannot listen there"):
            startup._refuse_port_in_use({"process_id": 0, "coordinator_address": address})


@pytest.mark.parametrize("given", [{"processes": 1}, {"processes": 1, "process": 0, "coordinator": "localhost:1"}])
def test_one_process_runs_alone_within_a_cluster_too(given, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NODELIST", "a,b")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    connected = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: connected.append(arguments))
    monkeypatch.setattr(startup.native_log, "shorten", lambda: None)
    nothing = {"coordinator": None, "processes": None, "process": None, "coordinator_timeout": 9}
    startup.connect(argparse.Namespace(**nothing | given))
    assert not connected
    startup.connect(argparse.Namespace(**nothing))
    assert connected


def test_the_only_process_of_a_node_has_all_its_gpus(monkeypatch):
    one = {"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
    assert startup._gpus_of_this_process(one) == list(range(8))
    assert startup._gpus_of_this_process(one | {"SLURM_STEP_TASKS_PER_NODE": "8(x4)"}) is None
    assert startup._gpus_of_this_process(one | {"JAX_LOCAL_DEVICE_IDS": "3"}) is None
    assert startup._gpus_of_this_process({"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "CUDA_VISIBLE_DEVICES": "2,3"}) == [0, 1]
    assert startup._gpus_of_this_process({}) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "2"], "--processes 2: expected --coordinator HOST:PORT"),
        (["--processes", "2"], "--coordinator, --process is missing"),
        (["--coordinator", "nowhere", "--processes", "2", "--process", "0"], "expected --coordinator HOST:PORT"),
        (["--coordinator", "localhost:1", "--processes", "2", "--process", "2"], "--process from 0 to N - 1"),
    ],
)
def test_incomplete_addresses_are_one_line(arguments, message, tmp_path):
    assert_one_line_mistake(run("train.py", *SMALL, *arguments, "--workdir", tmp_path / "run"), message)


@pytest.mark.parametrize("index", [0, 1])
def test_processes_that_do_not_meet_end_with_one_line_after_the_timeout(index, tmp_path):
    begun, address = time.monotonic(), f"localhost:{launcher._free_local_port()}"
    done = run(
        "train.py", *SMALL, "--coordinator", address, "--processes", 2, "--process", index,
        "--coordinator-timeout", 3, "--workdir", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(f"failed: not all processes connected to {address} within 3 s")
    assert len(done.stderr.splitlines()) == 1
    assert time.monotonic() - begun < 30
    assert not (tmp_path / "run").exists()


def test_a_process_that_ends_before_the_checks_ends_the_others_in_one_line(monkeypatch, tmp_path, capsys):
    def broken_off(*_):
        raise jax.errors.JaxRuntimeError("UNAVAILABLE: Connection closed by peer\nand a trace")

    def left(code):
        raise SystemExit(code)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(loop, "check_same_run", broken_off)
    monkeypatch.setattr(startup.os, "_exit", left)
    with pytest.raises(SystemExit):
        loop.train(load_config("configs/quickstart.py"), tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("failed: another process of this run has ended")
