"""A folder in the bucket, and copies of it."""

import os

from focalnet_jax.storage.address import to_path
from focalnet_jax.storage.cached import CachedFolder

BLOCK = 1000
FILES = {f"part-{number}": os.urandom(9_500) for number in range(6)} | {"below/empty": b"", "below/two": b"2"}


def opened(folder, cache):
    """A copy as a new process opens it."""
    copy = CachedFolder(to_path(f"gs://bucket/{folder}"), cache, "data.cache")
    return copy, [name for name in copy.list() if not name.endswith("/")]


def copied(folder, cache):
    copy, names = opened(folder, cache)
    copy.need(dict.fromkeys(names, 1))
    assert copy.fetch(names) == copy.folder
    return {name: (copy.folder / name).read_bytes() for name in names}
