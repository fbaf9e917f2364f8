"""Between log steps nothing is copied from the device to the host, and nothing implicitly to the device."""

import jax
import pytest
from jax._src.array import ArrayImpl

from focalnet_jax.programs.config_files import load_config
from focalnet_jax.training import loop
from tests.commands import SMALL


@pytest.fixture
def config():
    # Between the logged steps 10, 20 and 29, there are only train steps.
    return load_config("configs/quickstart.py", [*SMALL[1:], "--config.log_every_steps=10", "--config.total_steps=29"])


def test_the_host_reads_nothing_of_the_device_between_log_steps(config, tmp_path, monkeypatch):
    # JAX's transfer guard does not detect reads on CPUs, where arrays are in the host's memory. Reads are therefore
    # counted at the property that all of them use.
    reads: list[int] = []
    running: list = []
    value = ArrayImpl._value.fget

    def counted(array):
        if running:
            reads.append(running[-1].run.step)
        return value(array)

    steps = loop._Loop._steps

    def observed(self):
        running.append(self)
        with jax.transfer_guard("disallow"):  # implicit transfers are errors
            return steps(self)

    monkeypatch.setattr(ArrayImpl, "_value", property(counted))
    monkeypatch.setattr(loop._Loop, "_steps", observed)
    assert loop.train(config, tmp_path) == 0
    assert reads, "log steps read the metrics"
    assert set(reads) == {10, 20, 29}  # at step 29, the evaluation and the checkpoint also read
