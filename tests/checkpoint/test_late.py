"""Metrics of a step that arrive while the step is being written."""

from focalnet_jax.checkpoint.late import LateEvaluation


def test_metrics_reach_the_step_that_is_written_and_no_other():
    late = LateEvaluation()
    assert not late.offer({"eval/top1": 1.0})
    late.open()
    assert late.offer({"eval/top1": 2.0})
    assert late.take() == {"eval/top1": 2.0}
    assert late.take() is None
    assert not late.offer({"eval/top1": 3.0})


def test_metrics_of_a_failed_save_are_not_added_to_the_next_step():
    late = LateEvaluation()
    late.open()
    assert late.offer({"eval/top1": 1.0})
    late.close()
    late.open()
    assert late.take() is None
