"""The handwritten digits of scikit-learn, the data set of the quickstart."""

from __future__ import annotations

from importlib.metadata import distribution

import numpy as np

from focalnet_jax.data.decode import Picture
from focalnet_jax.data.source import Label, fingerprint_of
from focalnet_jax.errors import UserError

DIGITS_SPLITS = ("train", "val")
_DIGITS_FILE = "sklearn/datasets/data/digits.csv.gz"  # one row per image: 64 numbers from 0 to 16 and a label


class DigitsSource:
    """The 1797 handwritten digits in scikit-learn (UCI ML repository), 8x8 grey images of 10 classes.

    Split `val` has every fourth of the images sorted by class. Split `train` has the others.

    Raises:
      UserError: the split does not exist.
    """

    class_names = tuple("0123456789")

    def __init__(self, split: str):
        if split not in DIGITS_SPLITS:
            raise UserError(f"data.source=digits has no split {split!r}; expected {' or '.join(DIGITS_SPLITS)}")
        # Reads only the file, because scikit-learn takes a second to import.
        rows = np.loadtxt(distribution("scikit-learn").locate_file(_DIGITS_FILE), delimiter=",", dtype=np.int32)
        held_out = np.zeros(len(rows), bool)
        held_out[np.argsort(rows[:, -1], kind="stable")[::4]] = True
        rows = rows[held_out if split == "val" else ~held_out]
        grey = np.round(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        self._images = np.repeat(grey[..., None], 3, axis=-1)  # [N, 8, 8, 3]
        self.labels = rows[:, -1]
        self.fingerprint = fingerprint_of(["digits", split, "every fourth"])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Picture, Label]:
        return self._images[index], self.labels[index]

    def name(self, index: int) -> str:
        """Returns a name made of the example's index in the split, such as `digit 12`."""
        return f"digit {index}"
