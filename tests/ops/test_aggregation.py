"""Which form is chosen where."""

import pytest

from focalnet_jax.errors import UserError
from focalnet_jax.ops import native
from focalnet_jax.ops.forms import choose_form


def test_each_platform_has_its_fastest_form(monkeypatch):
    assert choose_form("aggregation", "auto", "cpu") == "native"
    monkeypatch.setattr(native, "register", lambda: None)
    assert choose_form("aggregation", "auto", "cpu") == "shifted"
    assert {choose_form("aggregation", "xla", platform) for platform in ("cpu", "gpu", "tpu")} == {"xla"}
    assert choose_form("aggregation", "auto", "gpu") == choose_form("aggregation", "auto", "cuda") == "triton"
    assert choose_form("aggregation", "auto", "tpu") == "mosaic"


def test_a_form_that_a_platform_has_not_is_refused():
    with pytest.raises(UserError, match="needs NVIDIA GPUs, the devices are cpu"):
        choose_form("aggregation", "triton", "cpu")
    with pytest.raises(UserError, match="needs CPUs, the devices are tpu"):
        choose_form("aggregation", "shifted", "tpu")
    with pytest.raises(UserError, match="needs TPUs, the devices are gpu"):
        choose_form("aggregation", "mosaic", "gpu")
    with pytest.raises(
        UserError, match="expected one of auto, xla, native, shifted, triton, mosaic\\. Did you mean 'triton'"
    ):
        choose_form("aggregation", "trito", "gpu")
