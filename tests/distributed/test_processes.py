"""Several real processes are one run: same numbers, one checkpoint, one end."""

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from focalnet_jax.distributed import startup
from focalnet_jax.launch import __main__ as launcher
from tests.commands import ENVIRONMENT, SMALL, assert_one_line_mistake, command, run, start
from tests.processes import SHORT, assert_same_run, launch


def test_two_processes_of_four_devices_compute_what_one_does(alone, tmp_path):
    """Every axis of the mesh is split, `data` over the processes: each reads a half of every batch."""
    mesh = ["--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2"]
    launcher = launch(*SHORT, *mesh, "--workdir", tmp_path, devices=4)
    stdout, stderr = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, stderr
    assert "8 x cpu, 2 process(es), mesh data=2 fsdp=2 tensor=2" in stdout
    assert stdout.count("2 process(es)") == 1  # one of them prints
    assert_same_run(tmp_path, alone)


def by_hand(script, port, *each, **options):
    """Two processes started as on two machines: what they say on stderr, and their exit codes.

    Each has its own arguments, and of `options`, lists of two, its own: `env`, or `cwd` for other sources.
    """
    shared = [script, *SMALL, "--coordinator", f"localhost:{port}", "--processes", "2"]
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
    for index, (stderr, code) in enumerate(by_hand("train.py", 47113, *each)):
        assert code == 2
        assert f"the processes of this run differ in seed (here {index})" in stderr
        assert sum("Gloo" not in line for line in stderr.strip().splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_processes_with_different_numbers_of_devices_refuse(tmp_path):
    flags = [{"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"} for count in (4, 2)]
    each = [["--workdir", tmp_path / "run"]] * 2
    for stderr, code in by_hand("train.py", 47122, *each, env=[ENVIRONMENT | flag for flag in flags]):
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
    for stderr, code in by_hand("train.py", 47121, *each, cwd=[here, other]):
        assert code == 2
        assert "differ in the source of focalnet_jax (here" in stderr


def test_processes_that_do_not_share_a_workdir_or_a_checkpoint_refuse(finished, tmp_path):
    each = [["--workdir", tmp_path / str(index)] for index in range(2)]
    for stderr, code in by_hand("train.py", 47118, *each):
        assert code == 2
        assert "differ in --workdir (here" in stderr
    workdir, _ = finished
    each = [["--checkpoint", workdir], ["--checkpoint", workdir / "checkpoints" / "49"]]
    for stderr, code in by_hand("eval.py", 47119, *each):
        assert code == 2
        assert "differ in --checkpoint (here" in stderr


def test_a_port_that_somebody_listens_at_is_refused(tmp_path):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        flags = ["--coordinator", f"localhost:{port}", "--processes", 2, "--process", 0]
        done = run("train.py", *SMALL, *flags, "--workdir", tmp_path / "run")
    assert_one_line_mistake(done, f"--coordinator localhost:{port}: process 0 cannot listen there")


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
        (["--processes", "2"], "--processes 2: expected HOST:PORT"),
        (["--processes", "2"], "--coordinator, --process is missing"),
        (["--coordinator", "nowhere", "--processes", "2", "--process", "0"], "expected HOST:PORT"),
        (["--coordinator", "localhost:1", "--processes", "2", "--process", "2"], "this one's index below that number"),
    ],
)
def test_incomplete_addresses_are_one_line(arguments, message, tmp_path):
    assert_one_line_mistake(run("train.py", *SMALL, *arguments, "--workdir", tmp_path / "run"), message)


@pytest.mark.parametrize("index", [0, 1])
def test_processes_that_do_not_meet_end_with_one_line_after_the_timeout(index, tmp_path):
    begun = time.monotonic()
    done = run(
        "train.py", *SMALL, "--coordinator", f"localhost:{47114 + index}", "--processes", 2, "--process", index,
        "--coordinator-timeout", 3, "--workdir", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(f"failed: not all processes connected to localhost:{47114 + index} within 3 s")
    assert len(done.stderr.splitlines()) == 1
    assert time.monotonic() - begun < 30
    assert not (tmp_path / "run").exists()


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


def test_the_launcher_refuses_a_command_that_is_no_program(tmp_path):
    flags = ["-m", "focalnet_jax.launch", "--processes", "2", "--"]
    assert_one_line_mistake(run(*flags, "trian.py"), "expected a Python program")
    assert_one_line_mistake(run(*flags), "expected a Python program")
    # In one go: what two processes print may otherwise mix.
    says = "import os, sys; os.write(1, (os.environ['JAX_PROCESS_ID'] + '\\n').encode()); sys.exit(7)"
    (tmp_path / "says.py").write_text(says)
    done = run(*flags, tmp_path / "says.py")
    assert done.returncode == 7
    assert sorted(done.stdout.split()) == ["0", "1"]
