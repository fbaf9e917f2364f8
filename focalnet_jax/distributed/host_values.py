"""Values on the hosts that the processes of a run share or compare: numbers, conditions and strings."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from focalnet_jax.errors import UserError

_MOST_NAMES = 8  # largest number of names in a message


def from_first(value: float) -> float:
    """Returns the `value` of process 0 in all processes; all processes must call this function.

    It is for values that may differ between processes, such as those read from a disk.
    """
    if jax.process_count() == 1:
        return value
    # Sent as bytes, because JAX would round the value to float32.
    sent = multihost_utils.broadcast_one_to_all(np.frombuffer(np.float64(value).tobytes(), np.uint8))
    return float(np.frombuffer(np.asarray(sent).tobytes(), np.float64)[0])


def anywhere(here: bool) -> bool:
    """Returns whether `here` is true in any process; all processes must call this function."""
    return bool(multihost_utils.process_allgather(np.int32(here)).any()) if jax.process_count() > 1 else here


def check_same(values: Mapping[str, str]) -> None:
    """Checks that all processes have the same `values`; all processes must call this function.

    Args:
      values: strings by name, such as config values by key.

    Raises:
      UserError: names or values differ. The message contains the differing names and, if values differ, this process's
        values.
    """
    if jax.process_count() == 1:
        return
    # Names first, because the gathered hashes must have the same shape in all processes.
    names = [set(text.split("\n")) for text in _gather_text("\n".join(values))]
    if unshared := sorted(set.union(*names) - set.intersection(*names)):
        listed = ", ".join(unshared[:_MOST_NAMES])
        more = f" and {len(unshared) - _MOST_NAMES} more" if len(unshared) > _MOST_NAMES else ""
        raise UserError(
            f"only some processes of this run have {listed}{more}: start all processes with the same code, recipe and "
            "--config arguments"
        )
    values = dict(sorted(values.items()))
    differs = np.ptp(_gather_hashes(list(values.values())), 0).any(axis=-1)
    if differs.any():
        differing = itertools.compress(values.items(), differs)
        here = ", ".join(f"{name} (here {value})" for name, value in differing)
        raise UserError(f"the processes of this run differ in {here}: start all processes with the same values")


def _gather_text(text: str) -> list[str]:
    """Returns the text of each process."""
    encoded = np.frombuffer(text.encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(encoded))))
    padded = np.pad(encoded, (0, lengths.max() - len(encoded)))
    texts = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:length].tobytes().decode() for row, length in zip(texts, lengths, strict=True)]


def _gather_hashes(texts: list[str]) -> np.ndarray:
    """Returns a hash of each text in each process, `[processes, texts, 32]` uint8."""
    digests = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in texts]
    return np.asarray(multihost_utils.process_allgather(np.stack(digests)))
