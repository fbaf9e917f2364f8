"""Writes the weights of detectors for mmdetection, or as a checkpoint of this package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from focalnet_jax.convert.detectors import DetectorWeights, all_variables
from focalnet_jax.convert.files import PICKLES, atomic_output
from focalnet_jax.convert.tables_detection import variables_to_tensors
from focalnet_jax.convert.torch_files import import_torch
from focalnet_jax.convert.write import WriteReport, chosen_dtype, value_notes, write_checkpoint
from focalnet_jax.convert.write_mmengine import cast_all, check_prenorm, normalization_notes, only_pth, write_model
from focalnet_jax.errors import UserError
from focalnet_jax.model.variants import ABLATIONS

FORMATS = ("mmdet", "orbax")


def write_detector(
    weights: DetectorWeights, destination: Path, *, format: str, dtype: str | None = None
) -> WriteReport:
    """Writes a detector's weights to `destination`, which must not exist and is created only when it is complete.

    Args:
      weights: the weights to write.
      destination: a `.pth` or `.safetensors` file for "mmdet", a directory for "orbax".
      format: "mmdet" or "orbax".
      dtype: see `write_weights`.

    Raises:
      UserError: the format cannot express the model; see also `write_weights`.
    """
    if format not in FORMATS:
        raise UserError(
            f"--to {format} writes no detectors, and these are weights of detection: use --to {'|'.join(FORMATS)}, or "
            "--head drop to write only the backbone"
        )
    if format == "orbax":
        described = {"task": weights.task, "head": weights.head.to_dict()}
        return write_checkpoint(weights, destination, dtype, statistics=weights.statistics, described=described)
    dtype = chosen_dtype(weights.dtype, dtype)
    if destination.suffix not in (*PICKLES, ".safetensors"):
        raise UserError(f"{destination.name}: --to mmdet writes a .pth or .safetensors file")
    if ablated := [name for name in ABLATIONS if not getattr(weights.config, name)]:
        raise UserError(f"mmdet has no FocalNet with {ablated[0]}=False; write it with --to orbax")
    check_prenorm(weights, "mmdetection")
    if destination.suffix in PICKLES:
        import_torch(destination)  # fails before the long conversion
    tensors = cast_all(variables_to_tensors(all_variables(weights), weights.config, weights.head.name), dtype)
    with atomic_output(destination) as partial:
        write_model(partial, tensors, weights.info)
    notes = (*value_notes(weights, dtype), *_notes(weights, destination))
    return WriteReport(len(tensors), dtype, (destination,), notes)


def _notes(weights: DetectorWeights, destination: Path) -> Iterator[str]:
    yield from normalization_notes(weights.info, "mmdetection")
    head = ", ".join(f"{key}={value}" for key, value in weights.head.to_dict().items() if key != "name")
    yield (
        f"build {weights.head.architecture.title} in mmdetection with the original's FocalNet and num_classes="
        f"{weights.config.num_classes}; options of this package: {head}"
    )
    if destination.suffix == ".safetensors":
        yield only_pth("mmdetection")
