"""The TPU kernels compute the same as XLA's implementation; here they are interpreted on a CPU."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from focalnet_jax.ops import mosaic
from focalnet_jax.ops.aggregation import _add_in_kernel, aggregate_levels
from focalnet_jax.ops.levels import levels_in_passes
from focalnet_jax.ops.mosaic import plan
from focalnet_jax.ops.mosaic.numbers import Pairs
from tests.ops.aggregating import (
    assert_as_xla,
    assert_no_further_from_the_truth_than_xla,
    assert_same_on_a_mesh,
    error,
    inputs,
    with_gradients,
)

WHOLE, V4 = 64 * 2**20, 15 * 2**20


def in_passes(vmem):
    return lambda context, gates, kernels, bias: levels_in_passes(
        context, gates, kernels, bias[None, None, None], vmem, True
    )


@pytest.mark.parametrize(
    ("shape", "sizes", "vmem", "registers", "rows"),
    [
        ((9, 4, 3, 130), (3, 5), WHOLE, 3, (4, 4)),  # two registers of both, the second nearly empty
        ((1, 4, 3, 8), (3, 3, 5), WHOLE, 1, (4, 4)),  # three levels
        ((1, 2, 3, 8), (7,), WHOLE, 1, (2, 2)),  # a kernel wider than the map
        ((1, 2, 130, 8), (3,), WHOLE, 4, (2, 2)),  # a row longer than a register; tiles of two rows
        ((9, 13, 5, 16), (3, 5), 2**22, 2, (7, 5)),  # the map in blocks of rows, the last of which extends below it
        ((1, 13, 2, 8), (3, 3, 3, 3), 2**21, 2, (2, 2)),  # four levels, more blocks than fit into fast memory
        ((1, 12, 2, 8), (7,), 2**20, 1, (3, 2)),  # blocks with fewer rows than a kernel covers, none below the map
        ((1, 7, 2, 8), (9, 3), 2**21, 1, (1, 1)),  # one row per block; four are above a window
        ((1, 3, 2, 2816), (3,), WHOLE, 1, (3, 3)),  # the widest maps
        ((1, 14, 3, 8), (9, 11, 13), 2**23, 1, (7, 2)),  # the kernels of the dense tasks
    ],
)
def test_sum_and_gradients_are_those_of_xla(shape, sizes, vmem, registers, rows, monkeypatch):
    monkeypatch.setattr(plan, "_REGISTERS", registers)  # small tiles compile faster
    assert tuple(each(*shape[1:3], sizes, 4, vmem).rows for each in (plan.forward_plan, plan.backward_plan)) == rows
    assert_as_xla(in_passes(vmem), shape, sizes, with_bias=True)


@pytest.mark.parametrize("sizes", [(3, 5), (13,)])
def test_bfloat16_is_no_further_from_the_truth_than_xlas(sizes, monkeypatch):
    monkeypatch.setattr(plan, "_REGISTERS", 1)
    assert_no_further_from_the_truth_than_xla(in_passes(WHOLE), (8, 8, 8, 16), sizes, with_bias=True)


@pytest.mark.parametrize(
    ("shape", "sizes", "vmem", "rows"),
    [
        ((25, 6, 6, 130), (7,), WHOLE, (6, 6)),  # two registers of both; a kernel whose products are rounded
        ((16, 13, 5, 128), (3, 7), 2**22, (7, 5)),  # the map in blocks of rows, the last of which extends below it
    ],
)
def test_pairs_of_bfloat16_are_no_further_from_the_truth_than_xlas(shape, sizes, vmem, rows, monkeypatch):
    monkeypatch.setattr(plan, "_REGISTERS", 1)
    monkeypatch.setattr(plan, "_chip", lambda: "TPU v6 lite")
    packed, pack = [], Pairs.pack
    monkeypatch.setattr(Pairs, "pack", lambda self, x: packed.append(x.shape) or pack(self, x))
    plans = [each(*shape[1:3], sizes, 2, vmem, pairs=True) for each in (plan.forward_plan, plan.backward_plan)]
    assert tuple((each.rows, each.pairs) for each in plans) == tuple((number, True) for number in rows)
    assert_no_further_from_the_truth_than_xla(in_passes(vmem), shape, sizes, with_bias=True, sum_rounded=True)
    assert set(packed) == {(16, 128)}


def test_kernels_of_float32_are_not_rounded_to_pairs(monkeypatch):
    monkeypatch.setattr(plan, "_REGISTERS", 1)
    (context, gates, kernels, bias), cotangents = inputs((16, 2, 2, 8), (3,), True, jnp.bfloat16)
    given = context, gates, tuple(kernel.astype(jnp.float32) * 1.001 for kernel in kernels), bias

    def on(chip):
        monkeypatch.setattr(plan, "_chip", lambda: chip)
        return jax.tree.leaves(with_gradients(in_passes(WHOLE), given, cotangents))

    for one, other in zip(on("TPU v6 lite"), on("TPU v5 lite"), strict=True):
        assert (one == other).all()


def test_pairs_are_lowered_for_a_tpu(monkeypatch):
    monkeypatch.setattr(plan, "_REGISTERS", 2)
    monkeypatch.setattr(plan, "_chip", lambda: "TPU v6 lite")
    (context, gates, kernels, bias), cotangents = inputs((12, 7, 7, 64), (3, 7), True, jnp.bfloat16)

    def run(context, gates, kernels, bias, cotangents):
        results, back = jax.vjp(partial(levels_in_passes, vmem=WHOLE, interpret=False), context, gates, kernels, bias)
        return results, back(cotangents)

    traced = jax.jit(run).trace(context, gates, kernels, bias[None, None, None], cotangents)
    assert traced.lower(lowering_platforms=("tpu",)).as_text().count("tpu_custom_call") == 2


@pytest.mark.parametrize(
    ("chip", "examples", "dtype", "expected"),
    [
        ("TPU v6 lite", 9, "bfloat16", True),
        ("TPU v6 lite", 64, "bfloat16", True),
        ("TPU v6 lite", 8, "bfloat16", False),  # half of the pairs would be empty
        ("TPU v6 lite", 24, "bfloat16", False),
        ("TPU v6 lite", 64, "float32", False),
        ("TPU v6 lite", 64, "float16", False),
        ("TPU v5 lite", 64, "bfloat16", False),  # its units support only float32
    ],
)
def test_pairs_are_taken_where_a_chip_computes_with_them(chip, examples, dtype, expected, monkeypatch):
    monkeypatch.setattr(plan, "_chip", lambda: chip)
    assert plan.computes_in_pairs(examples, jnp.dtype(dtype)) is expected


def test_where_pairs_do_not_fit_fast_memory_single_numbers_do():
    given = (56, 56, (3, 5, 7), 2)
    tight = next(vmem for vmem in range(2**20, WHOLE, 2**18) if plan.backward_plan(*given, vmem))
    assert not plan.backward_plan(*given, tight, pairs=True).pairs
    assert plan.backward_plan(*given, WHOLE, pairs=True).pairs


def test_devices_that_split_batch_and_channels_compute_the_same(monkeypatch):
    monkeypatch.setattr(plan, "_REGISTERS", 1)
    assert_same_on_a_mesh(in_passes(WHOLE), (4, 3, 2, 16), (3, 3), with_bias=True)


def test_in_a_loop_that_computes_them_again_the_gradients_are_the_same(monkeypatch):
    monkeypatch.setattr(plan, "_REGISTERS", 1)
    (context, gates, kernels, bias), (cotangent, _) = inputs((2, 3, 2, 16), (3,), True)
    blocks = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf / 2]), (gates, kernels, bias))

    def block(context, weights):
        return context + in_passes(WHOLE)(context, *weights)[0]

    def looped(context, blocks):
        return jax.lax.scan(lambda x, weights: (jax.checkpoint(block)(x, weights), None), context, blocks)[0]

    def unrolled(context, blocks):
        for number in range(2):
            context = block(context, jax.tree.map(lambda leaf, number=number: leaf[number], blocks))
        return context

    results = (with_gradients(implementation, (context, blocks), cotangent) for implementation in (looped, unrolled))
    for one, other in zip(*results, strict=True):
        assert error(one, other) < 1e-6


@pytest.mark.parametrize("shape", [(3, 5, 3, 24), (1, 1, 1, 8), (17, 7, 9, 130)])
def test_the_global_level_is_added_with_its_gradients(shape):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = shape, (*shape[:3], 4), (shape[0], shape[-1]), shape
    *arguments, cotangent = map(jax.random.normal, keys, shapes)

    def in_kernel(total, gates, of):
        return _add_in_kernel(total, gates, of, True)

    def by_xla(total, gates, of):
        return total + of[:, None, None] * gates[..., -1:]

    ours, theirs = (with_gradients(implementation, arguments, cotangent) for implementation in (in_kernel, by_xla))
    for mine, other in zip(ours, theirs, strict=True):
        assert error(mine, other) < 1e-6  # sums over at most 130 channels or 63 positions, in a different order


@pytest.mark.parametrize(
    ("chip", "side", "sizes", "rows"),
    [
        ("TPU v5 lite", 56, (3, 5, 7, 9), (8, 8)),
        ("TPU v5 lite", 96, (3, 5), (12, 8)),
        ("TPU v5", 56, (3, 5, 7, 9), (5, 4)),
        ("TPU v5", 96, (3, 5, 7, 9), (2, 2)),
        ("TPU v4", 56, (3, 5, 7), (2, 2)),
        ("TPU v4", 56, (3, 5, 7, 9), (2, 1)),
        ("TPU v4", 28, (3, 5, 7), (7, 4)),
    ],
)
def test_blocks_have_the_rows_that_fit_a_chips_fast_memory(chip, side, sizes, rows, monkeypatch):
    monkeypatch.setattr(plan, "_chip", lambda: chip)
    given = side, side, sizes, 2, mosaic.fast_memory()
    assert tuple(each(*given).rows for each in (plan.forward_plan, plan.backward_plan)) == rows


def test_shapes_it_cannot_compute_are_left_to_xla():
    assert mosaic.supports((64, 56, 56, 128), (3, 5, 7), 2, WHOLE)
    assert mosaic.supports((64, 96, 96, 352), (3, 5, 7, 9), 2, WHOLE)
    assert mosaic.supports((8, 128, 128, 128), (9, 11, 13), 2, WHOLE)
    assert not mosaic.supports((64, 56, 56, 128), (3, 5, 15), 2, WHOLE)
    assert mosaic.supports((64, 56, 56, 128), (3, 5, 7), 2, V4)
    assert mosaic.supports((64, 28, 28, 256), (3, 5, 7), 2, V4)
    assert not mosaic.supports((8, 1000, 1000, 192), (3, 5, 7, 9), 2, WHOLE // 2)
    assert not mosaic.supports((64, 1000, 1000, 128), (3, 5, 7), 2, V4)


@pytest.mark.parametrize(("width", "computed"), [(336, True), (1000, False)])
def test_wide_maps_of_detection_get_more_fast_memory(width, computed, monkeypatch):
    monkeypatch.setattr(plan, "_chip", lambda: "TPU v5 lite")
    sizes, shape = (9, 11, 13), (1, 200, width, 128)
    assert not mosaic.supports(shape, sizes, 2, mosaic.fast_memory())
    context, gates = jnp.zeros(shape, jnp.bfloat16), jnp.zeros((*shape[:3], 4), jnp.bfloat16)
    kernels = [jnp.zeros((size, size, 1, 128), jnp.bfloat16) for size in sizes]
    traced = str(jax.make_jaxpr(partial(aggregate_levels, implementation="mosaic"))(context, gates, kernels))
    assert ("pallas_call" in traced) == computed
    assert ("conv_general_dilated" in traced) != computed
