"""Which form is chosen where."""

import pytest

from focalnet_jax.errors import UserError
from focalnet_jax.ops.aggregation import choose_form


def test_each_platform_has_its_fastest_form():
    assert choose_form("auto", "cpu") == choose_form("xla", "gpu") == choose_form("xla", "tpu") == "xla"
    assert choose_form("auto", "gpu") == choose_form("auto", "cuda") == "triton"
    assert choose_form("auto", "tpu") == "mosaic"


def test_a_form_that_a_platform_has_not_is_refused():
    with pytest.raises(UserError, match="needs NVIDIA GPUs, the devices are cpu"):
        choose_form("triton", "cpu")
    with pytest.raises(UserError, match="needs TPUs, the devices are gpu"):
        choose_form("mosaic", "gpu")
    with pytest.raises(UserError, match="expected one of auto, xla, triton, mosaic\\. Did you mean 'triton'"):
        choose_form("trito", "gpu")
