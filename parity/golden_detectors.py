"""Writes tests/convert/golden/: .venv-parity/bin/python -m parity.golden_detectors.

Each file contains a small detector of mmdetection with random weights in float16, its outputs for a photo in evaluation
and, if it has BatchNorm, its running statistics after a training step. Further files contain objects, proposals and
terms of the loss of all detectors but ATSS.
"""

import argparse
from typing import Any

import numpy as np
import torch

from parity.detector_errors import their_outputs
from parity.detectors import DETECTORS, arrays, build, ours_from
from parity.region_losses import NUMBERS, calm, region_losses, sparse_terms
from parity.scenes import Scene
from tests.convert.golden_detectors import CLASSES, CONFIG, LOSS_SIZES, OPTIONS, SIZE, padded
from tests.convert.golden_files import GOLDEN

PROPOSALS = 12  # of Sparse R-CNN, for its losses


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
        if "mask" in name:
            _write_losses(name, images)
        elif name == "sparse_rcnn":
            _write_sparse_losses(name, images, model)
        np.savez_compressed(
            GOLDEN / f"{name}.npz",
            images=images,
            **{f"outputs/{index}": array.detach() for index, array in enumerate(outputs)},
            **{f"weights/{key}": array for key, array in weights.items()},
            **{f"after/{key}": array for key, array in after.items()},
        )


def _write_losses(name: str, images: np.ndarray) -> None:
    """Writes the terms of mmdetection's loss for a detector with the weights of the other file."""
    theirs = build(name, CONFIG, CLASSES, **OPTIONS[name], numbers=NUMBERS).half().float()
    ours = ours_from(theirs, name, CONFIG, CLASSES, **OPTIONS[name])
    scene = Scene(padded(images), LOSS_SIZES, CLASSES)
    _, losses, batch, proposals = region_losses(name, theirs, ours, scene, 0)
    _save(name, batch, losses.terms, {f"proposals/{key}": each for key, each in proposals._asdict().items()})


def _write_sparse_losses(name: str, images: np.ndarray, model: torch.nn.Module) -> None:
    """Writes the terms of mmdetection's loss for a detector with the weights of the other file and other proposals.

    The boxes of the other file's proposals have negative sides.
    """
    options = OPTIONS[name] | {"proposals": PROPOSALS}
    theirs = calm(build(name, CONFIG, CLASSES, **options)).half().float()
    proposals = {key: each for key, each in theirs.state_dict().items() if "init_proposal" in key}
    theirs.load_state_dict(model.state_dict() | proposals)
    with torch.no_grad():
        terms, batch = sparse_terms(theirs, Scene(padded(images), LOSS_SIZES, CLASSES), 0)
    _save(name, batch, terms, {f"weights/{key}": each.numpy().astype(np.float16) for key, each in proposals.items()})


def _save(name: str, batch: dict[str, Any], terms: dict[str, Any], given: dict[str, Any]) -> None:
    arrays = {f"batch/{key}": each for key, each in batch.items() if key != "image"}
    terms = {f"terms/{key}": float(value) for key, value in terms.items()}
    every = {key: np.asarray(each) for key, each in (arrays | given | terms).items()}
    np.savez_compressed(GOLDEN / f"{name}_losses.npz", **every)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
