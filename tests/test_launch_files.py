"""The files in launch/ have valid syntax, and name flags and configs that exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from focalnet_jax.programs.config_files import load_config

SCRIPTS = sorted(Path("launch").glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)


def test_this_jax_knows_the_flags_for_gpus():
    flags = re.findall(r"--xla_gpu_\w+=\w+", Path("launch/slurm.sh").read_text())
    assert len(flags) > 3
    # XLA ends the process if it does not know a flag.
    program = [sys.executable, "-c", "import jax; print(jax.jit(lambda x: x + 1)(1))"]
    done = subprocess.run(program, env=os.environ | {"XLA_FLAGS": " ".join(flags)}, capture_output=True, text=True)
    assert done.stdout.strip() == "2", done.stderr
    wrong = subprocess.run(program, env=os.environ | {"XLA_FLAGS": "--xla_gpu_no_such_flag=true"}, capture_output=True)
    assert wrong.returncode != 0


@pytest.mark.parametrize(("given", "minor", "found"), [(None, 13, "python3"), ("python3.11", 11, "python3.11")])
def test_a_tpu_is_set_up_with_the_given_python(tmp_path, given, minor, found):
    done, log = set_up_tpu(tmp_path, given, minor)
    assert done.returncode == 0, done.stderr
    assert "copied" in log
    assert f"{found} -m venv .venv" in log


def test_setting_up_a_tpu_with_an_old_python_says_what_to_do(tmp_path):
    done, log = set_up_tpu(tmp_path, None, 10)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "python3 is not Python 3.11 or newer" in done.stderr
    assert "apt-get install -y python3.11-venv" in done.stderr
    assert "repeat setup with PYTHON=python3.11" in done.stderr
    assert not log


def set_up_tpu(folder, given, minor):
    """Runs `setup` with a gcloud that executes a host's commands here, where Python is 3.`minor`."""
    log = folder / "log.txt"
    log.touch()
    programs = {
        # Like gcloud, for a command of a host; the log has what would be installed.
        "gcloud": f"""[ "$4" = scp ] && echo copied >> {log} && exit
            command="${{@: -1}}"
            case "$command" in mkdir*) echo "$command" >> {log};; *) bash -c "$command";; esac""",
        # Like Python, for the check of its version.
        given or "python3": f'exec {sys.executable} -c "import sys; sys.version_info = (3, {minor}); ${{2}}"',
        "tar": "exit 0",
    }
    for name, script in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "NAME": "tpu", "ZONE": "zone"}
    environment |= {"PYTHON": given} if given else {}
    done = subprocess.run(["launch/tpu_pod.sh", "setup"], env=environment, capture_output=True, text=True)
    return done, log.read_text()


def test_slurm_queues_a_stopped_run_again_and_a_failed_one_not(tmp_path):
    (tmp_path / "srun").write_text('#!/bin/bash\necho "$@" >> srun.txt\nexit "$STATUS"\n')
    (tmp_path / "scontrol").write_text('#!/bin/bash\necho "$@" >> scontrol.txt\n')
    for program in ("srun", "scontrol"):
        (tmp_path / program).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    for status, queued in ((1, False), (0, False), (42, True)):
        environment = os.environ | {"PATH": path, "STATUS": str(status), "SLURM_JOB_ID": "7"}
        script = Path("launch/slurm.sh").absolute()
        done = subprocess.run([script, "--config", "a b.py"], env=environment, cwd=tmp_path)
        assert done.returncode == status
        assert (tmp_path / "scontrol.txt").exists() == queued
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 7\n"
    assert "train.py --config a b.py" in (tmp_path / "srun.txt").read_text()


def test_the_job_for_kubernetes_trains_a_recipe_that_exists():
    job = yaml.safe_load(Path("launch/gke.yaml").read_text())
    template = job["spec"]["replicatedJobs"][0]["template"]["spec"]
    container = template["template"]["spec"]["containers"][0]
    command = container["command"]
    overrides = [argument for argument in command if argument.startswith("--config.")]
    config = load_config(command[2].removeprefix("--config="), overrides)
    rows, columns = map(
        int, template["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    )
    chips = rows * columns
    assert config.mesh.fsdp == chips == template["completions"] * container["resources"]["limits"]["google.com/tpu"]
    assert config.batch_size % chips == 0
    assert container["volumeMounts"] == [{"name": "cache", "mountPath": config.data.cache}]
    assert [volume["name"] for volume in template["template"]["spec"]["volumes"]] == ["cache"]


def test_xpk_gets_the_image_the_slice_and_the_command(tmp_path):
    (tmp_path / "xpk").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "xpk").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CLUSTER": "c", "IMAGE": "i", "TPU_TYPE": "v5litepod-64"}
    arguments = ["l4", "--config", "configs/a b.py", "--workdir", "gs://bucket/runs/l4"]
    done = subprocess.run(["launch/xpk.sh", *arguments], env=environment, capture_output=True, text=True)
    called = done.stdout.splitlines()
    assert called[:2] == ["workload", "create"], done.stderr
    options = dict(zip(called[2::2], called[3::2], strict=True))
    assert options["--workload"] == "l4"
    assert options["--docker-image"] == "i"
    assert options["--tpu-type"] == "v5litepod-64"
    assert options["--env"].startswith("LIBTPU_INIT_ARGS=--xla_tpu_")
    command = r"cd /app && python train.py --config configs/a\ b.py --workdir gs://bucket/runs/l4 "
    assert options["--command"] == command
    assert subprocess.run(["launch/xpk.sh", "l4"], env=environment, capture_output=True).returncode == 2


def test_the_task_for_skypilot_trains_a_recipe_that_exists():
    task = yaml.safe_load(Path("launch/skypilot.yaml").read_text())
    subprocess.run(["bash", "-n", "-c", task["setup"] + task["run"]], check=True)
    command = task["run"].split("train.py")[1].split()
    overrides = [argument for argument in command if argument.startswith("--config.")]
    load_config(command[command.index("--config") + 1], overrides)
    extra = re.search(r"\.\[(.+)\]", task["setup"])[1]
    assert set(extra.split(",")) == {"cuda", "gcs"}
