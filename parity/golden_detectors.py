"""Writes tests/convert/golden/: .venv-parity/bin/python -m parity.golden_detectors.

Each file contains a small detector of mmdetection with random weights in float16, its outputs for a photo in evaluation
and, if it has BatchNorm, its running statistics after a training step.
"""

import argparse

import numpy as np
import torch

from parity.detector_errors import their_outputs
from parity.detectors import DETECTORS, arrays, build
from tests.convert.golden_detectors import CLASSES, CONFIG, OPTIONS, SIZE
from tests.convert.golden_files import GOLDEN


def main() -> None:
    """Writes all files, with random weights from one seed."""
    for name in DETECTORS:
        model = build(name, CONFIG, CLASSES, **OPTIONS[name]).half().float()  # float16 stores the weights exactly
        images = np.random.default_rng(0).standard_normal((2, *SIZE, 3)).astype(np.float16)
        weights = {key: array.astype(np.float16) for key, array in arrays(model).items()}
        with torch.no_grad():
            outputs = their_outputs(name, model, images.astype(np.float32))
            their_outputs(name, model.train(), images.astype(np.float32))
        after = {key: array for key, array in arrays(model).items() if "running" in key}
        np.savez_compressed(
            GOLDEN / f"{name}.npz",
            images=images,
            **{f"outputs/{index}": array.detach() for index, array in enumerate(outputs)},
            **{f"weights/{key}": array for key, array in weights.items()},
            **{f"after/{key}": array for key, array in after.items()},
        )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
