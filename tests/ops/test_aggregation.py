"""Each platform has its fastest implementation; all implementations reject shapes that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from focalnet_jax.errors import UserError
from focalnet_jax.ops import native
from focalnet_jax.ops.aggregation import aggregate_context
from focalnet_jax.ops.implementations import choose_implementation
from tests.ops.aggregating import inputs, with_gradients


def test_each_platform_has_its_fastest_implementation(monkeypatch):
    assert choose_implementation("aggregation", "auto", "cpu") == "native"
    monkeypatch.setattr(native, "register", lambda: None)
    assert choose_implementation("aggregation", "auto", "cpu") == "shifted"
    assert {choose_implementation("aggregation", "xla", platform) for platform in ("cpu", "gpu", "tpu")} == {"xla"}
    assert (
        choose_implementation("aggregation", "auto", "gpu")
        == choose_implementation("aggregation", "auto", "cuda")
        == "triton"
    )
    assert choose_implementation("aggregation", "auto", "tpu") == "mosaic"


def test_an_implementation_for_another_platform_is_refused():
    with pytest.raises(UserError, match="needs NVIDIA GPUs, but the platform is cpu"):
        choose_implementation("aggregation", "triton", "cpu")
    with pytest.raises(UserError, match="needs CPUs, but the platform is tpu"):
        choose_implementation("aggregation", "shifted", "tpu")
    with pytest.raises(UserError, match="needs TPUs, but the platform is gpu"):
        choose_implementation("aggregation", "mosaic", "gpu")
    with pytest.raises(
        UserError, match="expected one of auto, xla, native, shifted, triton, mosaic\\. Did you mean 'triton'"
    ):
        choose_implementation("aggregation", "trito", "gpu")


@pytest.mark.parametrize("implementation", ["xla", "shifted", "native"])
@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"gates": (1, 5, 6, 3)}, r"gates have shape \(1, 5, 6, 3\); expected \(2, 5, 6, 3\)"),
        ({"gates": (2, 5, 6, 2)}, " for 2 levels and the global level"),
        ({"context": (5, 6, 8)}, r"context has shape \(5, 6, 8\); expected \[B, H, W, C\]"),
        ({"kernel": (3, 5, 1, 8)}, r"a kernel has shape \(3, 5, 1, 8\); expected \[k, k, 1, 8\] with odd k"),
        ({"kernel": (4, 4, 1, 8)}, "odd k"),
        ({"kernel": (3, 3, 1, 1)}, "a kernel has shape"),
        ({"bias": (1,)}, r"bias has shape \(1,\); expected \(8,\)"),
        ({"implementation": "nope"}, "implementation is 'nope'; expected one of xla, native, shifted, triton, mosaic"),
    ],
)
def test_shapes_that_do_not_fit_together_are_refused_by_every_implementation(implementation, changed, complaint):
    shapes = {"context": (2, 5, 6, 8), "gates": (2, 5, 6, 3), "kernel": (3, 3, 1, 8), "bias": (8,)} | changed
    implementation = shapes.pop("implementation", implementation)
    context, gates, kernel, bias = map(jnp.zeros, shapes.values())
    with pytest.raises(ValueError, match=complaint):
        aggregate_context(context, gates, [jnp.zeros((5, 5, 1, 8)), kernel], bias, implementation=implementation)


@pytest.mark.parametrize("implementation", ["xla", "shifted", "native", "triton", "mosaic"])
@pytest.mark.parametrize("shape", [(0, 4, 4, 8), (2, 0, 4, 8), (2, 4, 0, 8), (2, 4, 4, 0), (0, 0, 0, 8)])
def test_empty_maps_have_empty_sums_and_gradients_of_zero(implementation, shape):
    arguments, (cotangent, _) = inputs(shape, (3, 5), True)

    def run(*given):
        return aggregate_context(*given, implementation=implementation)

    total, *gradients = with_gradients(run, arguments, cotangent)
    assert total.shape == shape
    assert [each.shape for each in gradients] == [each.shape for each in jax.tree.leaves(arguments)]
    assert not any(np.any(each) for each in gradients)
