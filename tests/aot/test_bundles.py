"""Bundles of a kernel are counted as often as the loops around them run."""

import pytest

from focalnet_jax.aot.bundles import count

KERNEL = """
= control target key start
LB: loop body
     0   :  { %s1 = smov.u32 0 }
   0x1 LB: > { %s9 = sadd.s32 1, %s8  ;;  %s8 = sphi %s7, %s9 /* phi copy */ }
   0x2   : > { %v1 = vld [vmem:[%s2] sm:$0xff] }
   0x3   :  {}
   0x4 LB: >> { %s4 = sadd.s32 1, %s3  ;;  %s3 = sphi %s1, %s4 /* phi copy */ }
   0x5 LB: >>> { %s6 = sadd.s32 1, %s5  ;;  %s5 = sphi %s1, %s6 /* phi copy */ }
   0x6   : >>> { %p1 = scmp.ge.s32.totalorder %s6, 3 /* loop exit test */ }
   0x7   : >>> { %p2 = scmp.ge.s32.totalorder (%p1), %s4, 5 /* loop exit test */ }
   0x8   : >> { %8 = sbr.rel (!%p2) target = $region4 }
   0x9   : > { %p3 = scmp.ge.s32.totalorder %s9, 10 /* loop exit test */ }
"""
INNER = 5 * (1 + 3 * 3 + 1)


def test_loops_multiply():
    assert count(KERNEL) == 1 + 10 * (4 + INNER)


def test_a_loop_of_unknown_length_counts_once():
    assert count(KERNEL.replace("%s6, 3 /* loop exit test */", "%s6, %s11")) == 1 + 10 * (4 + 5 * (1 + 3 + 1))


def test_where_not_all_turns_compute_inner_loops_run_in_a_fraction_of_them():
    assert count(KERNEL, 0.5) == 1 + 10 * (4 + INNER / 2)


def test_a_counter_kept_in_memory_is_found_and_two_are_refused():
    spilled = KERNEL.replace("%s8 = sphi %s7, %s9", "%s8 = sld [smem:[#allocation5]]")
    assert count(spilled) == count(KERNEL)
    with pytest.raises(ValueError, match="the trip counts of 2 of 3 loops are unknown"):
        count(spilled.replace("%s3 = sphi %s1, %s4", "%s3 = sld [smem:[#allocation6]]"))


def test_what_matrix_units_are_given_takes_them_a_cycle_a_row():
    given = "%v1 = vmatmul.bf16.vlgmr.msra.gmra.mxu0 %v2 ;;  %v3 = vmatmul.bf16.gmra.mxu1 %v4"
    inner = KERNEL.replace("%s6 = sadd.s32 1, %s5", f"{given} ;; %s6 = sadd.s32 1, %s5")
    assert count(inner) == 10 * 5 * 3 * 16
    assert count(inner.replace("vmatmul.", "vmatmul.mubr.")) == 10 * 5 * 3 * 8  # on a v6e


def test_a_grid_computes_in_all_of_its_turns_but_the_first_and_the_last():
    begins = "   0x3   : > { %p7 = scmp.lt.s32.totalorder %s8, 9  ;;  %7 = sbr.rel (%p7) target = $region2 }"
    skipping = KERNEL.replace("   0x3   :  {}", begins).replace("   0x9   : > {", "   0x9   : > { /* End region 2 */")
    assert count(skipping) == 1 + 10 * 4 + 8 * INNER
    assert count(skipping, 0.5) == 1 + 10 * 4 + 8 * INNER / 2
    other = skipping.replace("%s8, 9 ", "%s8, 8 ")  # the skipped part belongs to a different condition
    assert count(other) == count(KERNEL)
