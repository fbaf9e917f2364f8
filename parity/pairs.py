"""Parameters of the tests: pairs of a config and a library."""

from __future__ import annotations

import pytest

from parity.measure import distinct_flags
from parity.pytorch import FORMATS, can_build

PAIRS = [
    pytest.param(config, library, id=f"{'+'.join(names)}-{library}")
    for config, names in distinct_flags().items()
    for library in FORMATS
    if can_build(config, library)
]
