"""The cost of a compiled program is read from its text: loops count as often as they run, collectives once."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from focalnet_jax.aot.program import Program
from focalnet_jax.distributed.mesh import make_mesh

# A shortened program of the TPU compiler. It has a loop of 18 iterations whose condition compares with a constant; in
# the loop a fusion, with estimates for the fusion and for its contents; a gather that is divided between two fusions;
# and a loop over the devices' parts of an operand, whose counter is incremented by two.
TPU = """
HloModule jit_step, num_partitions=16

%gathering (p: bf16[8]) -> bf16[64] {
  %p = bf16[8]{0} parameter(0)
  ROOT %g = bf16[64]{0:T(256)} all-gather(%p), channel_id=7, replica_groups=[2,8]<=[16], dimensions={0}
}

%inner (q: f32[4]) -> f32[4] {
  %q = f32[4]{0} parameter(0)
  ROOT %a = f32[4]{0} add(%q, %q), backend_config={"window_config":{"estimated_cycles":"999"}}
}

%cond (c: (s32[], f32[4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(18)
  %c = (s32[]{:T(128)}, f32[4]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (b: (s32[], f32[4])) -> (s32[], f32[4]) {
  %b = (s32[], f32[4]{0}) parameter(0)
  %f = f32[4]{0} fusion(%x), kind=kLoop, calls=%inner, backend_config={"window_config":{"estimated_cycles":"10"}}
  %r = f32[1000]{0} all-reduce(%f), channel_id=8, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%inner
  %one = bf16[64]{0} fusion(%x), kind=kCustom, calls=%gathering
  %two = bf16[64]{0} fusion(%x), kind=kCustom, calls=%gathering
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %f)
}

%windowed_cond (v: (f32[4], s32[], u32[])) -> pred[] {
  %limit2 = u32[]{:T(128)} constant(8)
  %v = (f32[4]{0}, s32[]{:T(128)}, /*index=2*/u32[]{:T(128)}) parameter(0)
  %j = u32[]{:T(128)} get-tuple-element(%v), index=2
  ROOT %below = pred[]{:T(512)} compare(%j, %limit2), direction=LT
}

%windowed_body (d: (f32[4], s32[], u32[])) -> (f32[4], s32[], u32[]) {
  %by = u32[]{:T(128)} constant(2)
  %fifteen = s32[]{:T(128)} constant(15)
  %d = (f32[4]{0}, s32[]{:T(128)}, /*index=2*/u32[]{:T(128)}) parameter(0)
  %k = u32[]{:T(128)} get-tuple-element(%d), index=2
  %h = s32[]{:T(128)} get-tuple-element(%d), index=1
  %e = s32[]{:T(128)} add(%h, %fifteen)
  %next = u32[]{:T(128)} add(%k, %by)
  %n = f32[4]{0} fusion(%x), kind=kLoop, calls=%inner, backend_config={"window_config":{"estimated_cycles":"7"}}
  ROOT %u = (f32[4]{0}, s32[], /*index=2*/u32[]{:T(128)}) tuple(%n, %e, /*index=2*/%next)
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %w = (s32[], f32[4]{0}) while(%init), condition=%cond, body=%body
  %v2 = (f32[4]{0}, s32[], u32[]) while(%init2), condition=%windowed_cond, body=%windowed_body
  %s = (bf16[32]{0}, bf16[32]{0}, u32[], u32[]) collective-permute-start(%x), channel_id=9, source_target_pairs={{0,1}}
  %m = f32[16]{0} all-gather(%x), channel_id=10, replica_groups=mesh['a'=2,'b'=4,'c'=2] {'b','c'}, dimensions={0}
  %o = f32[16]{0} all-gather(%x), channel_id=11, replica_groups=mesh['a'=4,'b'=4], device_ids=([4,4]T(1,0)) {'a'}
  %z = f32[16]{0} all-gather(%x), channel_id=12, replica_groups={}, dimensions={0}
  ROOT %y = f32[4]{0} copy(%x), backend_config={"window_config":{"estimated_cycles":"5"}}
}
"""


def test_loops_count_as_often_as_they_run_and_what_is_fused_once():
    assert Program(TPU).cycles({}.get) == 18 * 10 + 8 // 2 * 7 + 5
    ours = '  %k = f32[4]{0} custom-call(%x), custom_call_target="tpu_custom_call"'
    text = TPU.replace("  ROOT %y", f"{ours}\n  ROOT %y")
    assert Program(text).cycles({"k": 100, "y": 7}.get) == 18 * 10 + 8 // 2 * 7 + 5 + 100


def test_an_exchange_counts_once_a_turn_by_what_a_ring_sends():
    assert Program(TPU).collective_bytes() == {
        "all-gather": 18 * 64 * 2 * 7 // 8 + 16 * 4 * 7 // 8 + 16 * 4 * 3 // 4 + 16 * 4 * 15 // 16,
        "all-reduce": 18 * 2 * 1000 * 4 * 3 // 4,
        "collective-permute": 32 * 2,
    }


def test_an_exchange_that_cannot_be_read_is_not_counted_as_none():
    with pytest.raises(ValueError, match="unknown format of replica groups"):
        Program(TPU.replace("replica_groups={}", "replica_groups=ring(16)")).collective_bytes()


def test_a_program_of_this_machine_is_read_too():
    mesh = make_mesh({"data": 8, "fsdp": 1, "tensor": 1})
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())

    def summed(x):  # five all-reduces
        return jax.lax.scan(lambda total, _: (total + jnp.sum(x * total[0]), None), jnp.ones(3), length=5)[0]

    x = jax.ShapeDtypeStruct((64,), jnp.float32, sharding=split)
    program = Program(jax.jit(summed, out_shardings=whole).lower(x).compile().as_text())
    assert program.cycles({}.get) is None  # the compiler for CPUs does not estimate cycles
    assert program.collective_bytes() == {"all-reduce": 5 * 4 * 2 * 7 // 8}


def test_a_program_without_exchanges_sends_nothing():
    program = Program(jax.jit(lambda x: x * 2).lower(jnp.ones(3)).compile().as_text())
    assert program.collective_bytes() == {}
