"""Writes UPerNet's weights for mmsegmentation, for transformers, or as a checkpoint of this package."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from focalnet_jax.convert.files import HEADS, METADATA, PICKLES, atomic_output, write_tensors
from focalnet_jax.convert.huggingface import CONFIG, PREPROCESSOR, check_factors, transformers_config
from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.tables_upernet import UPERNET_TABLES, variables_to_tensors
from focalnet_jax.convert.torch_files import import_torch, to_torch
from focalnet_jax.convert.upernet import USUAL_SCALES, UPerNetWeights, all_variables
from focalnet_jax.convert.write import WriteReport, cast, chosen_dtype, value_notes, write_checkpoint
from focalnet_jax.data.class_lists import output_names
from focalnet_jax.data.preprocessing import USUAL
from focalnet_jax.errors import UserError
from focalnet_jax.model.variants import ABLATIONS

FORMATS = (*UPERNET_TABLES, "orbax")
_CODE = "modeling_focalnet_upernet"  # the file with the model's code in a directory of transformers
_CLASS = "FocalNetUperNetForSemanticSegmentation"
_INSTEAD = "use --to orbax, which this package reads, or --head drop --to microsoft|timm for the backbone alone"
_ONLY_PRENORM = ("use_postln", "use_postln_in_modulation", "normalize_modulator")


def write_upernet(weights: UPerNetWeights, destination: Path, *, format: str, dtype: str | None = None) -> WriteReport:
    """Writes UPerNet's weights to `destination`, which must not exist and is created only when it is complete.

    Args:
      weights: the weights to write.
      destination: a `.pth` or `.safetensors` file for "mmseg", a directory for "huggingface" and "orbax".
      format: "mmseg", "huggingface" or "orbax".
      dtype: see `write_weights`.

    Raises:
      UserError: the format cannot express the model, or the errors of `write_weights`.
    """
    if format not in FORMATS:
        raise UserError(
            f"--to {format} writes a classifier, and these are weights of segmentation: use --to "
            f"{'|'.join(FORMATS)}, or --head drop to write only the backbone"
        )
    if format == "orbax":
        described = {"task": "segmentation", "head": weights.heads.to_dict()}
        return write_checkpoint(weights, destination, dtype, statistics=weights.statistics, described=described)
    dtype = chosen_dtype(weights.dtype, dtype)
    as_file = destination.suffix in (*PICKLES, ".safetensors")
    if as_file != (format == "mmseg"):
        expected = "a .pth or .safetensors file" if format == "mmseg" else "a directory"
        raise UserError(f"{destination.name}: --to {format} writes {expected}")
    _check_expressible(weights, format)
    torch = import_torch(destination) if destination.suffix in PICKLES else None
    tensors = dict(_tensors(weights, format, dtype))
    metadata = {METADATA: json.dumps(weights.info.to_dict())} if weights.info != WeightsInfo() else {}
    metadata |= {HEADS: json.dumps({"pool_scales": weights.heads.pool_scales})}
    with atomic_output(destination) as partial:
        if format == "huggingface":
            partial.mkdir()
            _write_directory(partial, weights)
            write_tensors(partial / "model.safetensors", tensors, nested=False, metadata=metadata)
        elif torch is None:
            write_tensors(partial, tensors, nested=False, metadata=metadata)
        else:
            state = {name: to_torch(torch, array) for name, array in tensors.items()}
            torch.save({"meta": _meta(weights.info), "state_dict": state}, partial)
    files = sorted(destination.iterdir()) if format == "huggingface" else [destination]
    notes = (*value_notes(weights, dtype), *_format_notes(weights, destination, format))
    return WriteReport(len(tensors), dtype, tuple(files), notes)


def _tensors(weights: UPerNetWeights, format: str, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    for name, array in variables_to_tensors(all_variables(weights), weights.config, format):
        counter = array.dtype == np.int64
        yield name, array if counter else cast(name, array, dtype)


def _check_expressible(weights: UPerNetWeights, format: str) -> None:
    config = weights.config
    if ablated := [name for name in ABLATIONS if not getattr(config, name)]:
        raise UserError(f"{format} has no FocalNet with {ablated[0]}=False; write it with --to orbax")
    if format == "mmseg":
        if unknown := [name for name in _ONLY_PRENORM if getattr(config, name)]:
            raise UserError(
                f"the original's FocalNet for mmsegmentation has no {unknown[0]}, which {weights.name or 'this model'} "
                f"has, so mmsegmentation could not load the file: {_INSTEAD}"
            )
        return
    if config.use_conv_embed:
        raise UserError(
            "transformers' FocalNet pads an overlapped patch embedding by 2 pixels, the original's by 3, so its "
            f"outputs would differ: {_INSTEAD}"
        )
    if len(config.depths) != 4:
        raise UserError(f"transformers' UperNet has 4 stages; this model has {len(config.depths)}: use --to orbax")
    check_factors(config, "transformers")


def _meta(info: WeightsInfo) -> dict[str, Any]:
    """Returns `meta` of a file, with class names and palette as mmsegmentation 0.x and 1.x read them."""
    if not info.classes:
        return {}
    old: dict[str, Any] = {"CLASSES": tuple(info.classes)}
    if info.palette:
        old["PALETTE"] = [list(colour) for colour in info.palette]
    return old | {"dataset_meta": {key.lower(): value for key, value in old.items()}}


def _write_directory(folder: Path, weights: UPerNetWeights) -> None:
    """Writes `config.json`, `preprocessor_config.json` and the code of the model."""
    config, heads = weights.config, weights.heads
    normalization = (weights.info.preprocessing or USUAL).normalization
    backbone = transformers_config(dataclasses.replace(config, num_classes=0), 512)
    stages = [f"stage{index + 1}" for index in range(len(config.depths))]
    for key in ("architectures", "id2label", "label2id"):
        del backbone[key]
    names = output_names(config.num_classes, weights.info.classes)  # there may be more outputs than classes
    content = {
        "architectures": [_CLASS],
        "auto_map": {"AutoModelForSemanticSegmentation": f"{_CODE}.{_CLASS}"},
        "model_type": "upernet",
        "backbone_config": backbone | {"out_features": stages},
        "hidden_size": heads.channels,
        "pool_scales": list(heads.pool_scales),
        "use_auxiliary_head": bool(heads.auxiliary_channels),
        "auxiliary_channels": heads.auxiliary_channels or 256,
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }
    # Images keep their size: the resizing of an evaluation, which fits images into a box, has no processor.
    processor = {
        "image_processor_type": "SegformerImageProcessor",
        "do_resize": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(normalization.mean),
        "image_std": list(normalization.std),
        "do_reduce_labels": False,
    }
    for name, value in ((CONFIG, content), (PREPROCESSOR, processor)):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n")
    code = resources.files("focalnet_jax.convert").joinpath(f"templates/{_CODE}.txt").read_text("utf-8")
    (folder / f"{_CODE}.py").write_text(code)


def _format_notes(weights: UPerNetWeights, destination: Path, format: str) -> Iterator[str]:
    if format == "huggingface":
        yield (
            "transformers' FocalNetBackbone returns other maps: load with "
            "AutoModelForSemanticSegmentation.from_pretrained(DIR, trust_remote_code=True), which "
            f"uses {_CODE}.py in the directory"
        )
        box = weights.info.box
        fit = f"{box[0]}x{box[1]} pixels" if box else "the size of the training"
        yield f"{PREPROCESSOR} does not resize images: first resize the images to fit into {fit}"
        return
    heads = weights.heads
    channels = f"channels={heads.channels}, pool_scales={heads.pool_scales}"
    how = weights.info.preprocessing
    if how is not None and how.normalization != USUAL.normalization:
        parts = how.normalization.mean, how.normalization.std
        mean, std = ([round(255 * each, 6) for each in part] for part in parts)
        yield f"in mmsegmentation, normalize images with mean={mean}, std={std}, bgr_to_rgb=True"
    yield f"build the model in mmsegmentation with UPerHead({channels}, num_classes={weights.config.num_classes})"
    if destination.suffix == ".safetensors":
        yield "mmsegmentation reads only .pth files; load this file with safetensors.torch.load_file"
    elif heads.pool_scales != USUAL_SCALES:
        yield "a torch file does not store pool_scales: give --config.head.pool_scales when this package reads it"
