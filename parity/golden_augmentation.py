"""Writes tests/data/golden/augmented_masks.npz: .venv-parity/bin/python -m parity.golden_augmentation.

The file contains three small photos with masks, draws, and digests of mmsegmentation's results. `make test` compares
this package with the file, without torch.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from focalnet_jax.tasks.segmentation.augment import Augmentation
from parity.draws import photos
from parity.mmseg_transforms import augmented, mask_of
from tests.data.augmented import GOLDEN, digest

SMALL = Augmentation(size=(80, 90), box=(256, 96))


def main() -> None:
    """Writes the file, with 16 draws for each photo."""
    arrays, expected = {}, []
    for number, photo in enumerate(photos()):
        image = np.ascontiguousarray(photo[40 : 110 + 9 * number, 60 : 151 - 7 * number])
        mask = mask_of(image)
        arrays |= {f"image{number}": image, f"mask{number}": mask}
        for seed in range(16):
            draws = SMALL.draw(np.random.default_rng(seed), *mask.shape)
            unit = np.random.default_rng(seed).random()  # from which the draws compute the ratio
            theirs = augmented(SMALL, image, mask, unit, draws)
            digests = digest(theirs["img"][..., ::-1]), digest(theirs["gt_seg_map"])
            expected.append({"photo": number, "draws": asdict(draws), "image": digests[0], "mask": digests[1]})
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **arrays, size=SMALL.size, expected=json.dumps(expected))
    Path(GOLDEN).chmod(0o644)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
