"""Imported before commands are forked: loads what commands need later, and what numba needs to resize a first image.

These take a quarter of a second and half a second.
"""

import numpy as np
from PIL import ImageDraw, ImageFilter, ImageFont  # noqa: F401

from focalnet_jax.data import digits_source, folder_source, policies, sources  # noqa: F401
from focalnet_jax.data.pixels import resize
from focalnet_jax.programs import config_files, flags  # noqa: F401
from focalnet_jax.tasks.classification import kind, task  # noqa: F401

resize(np.zeros((2, 2, 3), np.uint8), (0, 0, 2, 2), (2, 2), (0, 0, 2, 2))
