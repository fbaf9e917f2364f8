"""The processes that prepare data end with their work."""

import multiprocessing
import time
from concurrent.futures.process import _ExecutorManagerThread

from focalnet_jax.data.prepare.workers import run_all


def work_and_tell_late():
    """Does what a preparation does; its workers are told half a second later that there is no more to do."""
    told = _ExecutorManagerThread.shutdown_workers
    _ExecutorManagerThread.shutdown_workers = lambda self: (time.sleep(0.5), told(self))
    run_all(abs, [(-1,), (2,)], 1, lambda done, result: None)


def test_a_preparation_in_a_process_of_multiprocessing_ends():
    process = multiprocessing.get_context("spawn").Process(target=work_and_tell_late)
    process.start()
    process.join(30)
    ended = process.exitcode
    process.kill()
    assert ended == 0
