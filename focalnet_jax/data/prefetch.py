"""Takes the next batch in the background, and fails if no batch arrives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

import grain
import numpy as np

from focalnet_jax.data.host import Batch
from focalnet_jax.errors import LEFT_BEHIND, RunFailedError
from focalnet_jax.storage.cached import last_arrival
from focalnet_jax.system.children import end_all

_LISTEN_SECONDS = 0.2  # interval of checking `stopped` while waiting for a batch
_PATIENCE_SECONDS = 5.0  # longest wait, at the end of a stream, for a batch in preparation


def prefetched(
    batches: grain.DatasetIterator, *, in_processes: bool, stall_seconds: float, stopped: Callable[[], bool]
) -> Iterator[Batch]:
    """Yields batches, and takes the next batch from `batches` in the background.

    Args:
      batches: the batches.
      in_processes: whether reader processes make the batches.
      stall_seconds: longest time without a batch or downloaded bytes of the data.
      stopped: function that returns whether to end early if no batch is ready.

    Raises:
      RunFailedError: a reader process died, or nothing arrived for `stall_seconds`.
    """

    def take() -> Batch | None:
        batch = next(batches, None)
        if batch is None or not in_processes:
            return batch
        # Copies, so that memory shared with a reader process is freed.
        return {name: np.array(value) for name, value in batch.items()}

    ahead = ThreadPoolExecutor(1, thread_name_prefix="next batch")
    pending = ahead.submit(take)
    stalled = False
    try:
        while (batch := _result(pending, in_processes, stall_seconds, stopped)) is not None:
            pending = ahead.submit(take)
            yield batch
        stalled = not pending.done()
    except RunFailedError:
        stalled = True
        raise
    finally:
        # A read in progress cannot be stopped, so it is abandoned until the process ends.
        idle = pending.cancel() or pending in wait([pending], 0 if stalled else _PATIENCE_SECONDS).done
        ahead.shutdown(wait=False)
        if idle:
            batches.close()
        else:
            LEFT_BEHIND.append("a batch")
            end_all()


def _result(
    pending: Future[Batch | None], in_processes: bool, stall_seconds: float, stopped: Callable[[], bool]
) -> Batch | None:
    deadline, arrival = time.monotonic() + stall_seconds, last_arrival()
    while not wait([pending], timeout=min(_LISTEN_SECONDS, stall_seconds)).done:
        if stopped():
            return None
        if (latest := last_arrival()) != arrival:  # the data are being downloaded
            deadline, arrival = time.monotonic() + stall_seconds, latest
        if time.monotonic() > deadline:
            raise RunFailedError(
                f"no batch was read for {stall_seconds:.0f} s (data.stall_seconds): a reader process or the "
                "storage hangs"
            )
    try:
        return pending.result()
    except RunFailedError:
        raise
    except RuntimeError as error:
        if not in_processes:
            raise
        # Grain raises RuntimeError if a reader process dies.
        raise RunFailedError(f"a reader process died: {error}") from error
