"""Worker processes of `data.prepare` end with the preparation."""

import multiprocessing
import time
from concurrent.futures.process import _ExecutorManagerThread

from focalnet_jax.data.prepare.workers import run_all


def work_and_shut_down_late():
    """Works like a preparation, but its workers receive the request to end half a second later."""
    shutdown = _ExecutorManagerThread.shutdown_workers
    _ExecutorManagerThread.shutdown_workers = lambda self: (time.sleep(0.5), shutdown(self))
    run_all(abs, [(-1,), (2,)], 1, lambda done, result: None)


def test_a_preparation_in_a_process_of_multiprocessing_ends():
    process = multiprocessing.get_context("spawn").Process(target=work_and_shut_down_late)
    process.start()
    process.join(30)
    ended = process.exitcode
    process.kill()
    assert ended == 0
