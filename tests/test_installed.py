"""python -m focalnet_jax tells what is installed."""

from focalnet_jax import __version__
from tests.commands import assert_one_line_mistake, run


def test_versions_devices_and_what_is_missing_are_told():
    done = run("-m", "focalnet_jax")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"focalnet_jax {__version__}, Python ")
    assert "1 x cpu" in done.stdout
    assert "figures and videos  matplotlib " in done.stdout
    assert "None" not in done.stdout
    assert_one_line_mistake(run("-m", "focalnet_jax", "--versin"), "--versin")
