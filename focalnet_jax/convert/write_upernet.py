"""Writes UPerNet's weights for mmsegmentation, for transformers, or as a checkpoint of this package."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from focalnet_jax.convert.files import HEADS, PICKLES, atomic_output, write_tensors
from focalnet_jax.convert.huggingface import CONFIG, PREPROCESSOR, check_factors, transformers_config
from focalnet_jax.convert.tables_upernet import UPERNET_TABLES, variables_to_tensors
from focalnet_jax.convert.torch_files import import_torch
from focalnet_jax.convert.upernet import USUAL_SCALES, UPerNetWeights, all_variables
from focalnet_jax.convert.write import WriteReport, chosen_dtype, value_notes, write_checkpoint
from focalnet_jax.convert.write_mmengine import (
    INSTEAD,
    cast_all,
    check_prenorm,
    info_metadata,
    normalization_notes,
    only_pth,
    write_model,
)
from focalnet_jax.data.class_lists import output_names
from focalnet_jax.data.preprocessing import USUAL
from focalnet_jax.errors import UserError
from focalnet_jax.model.variants import ABLATIONS

FORMATS = (*UPERNET_TABLES, "orbax")
_CODE = "modeling_focalnet_upernet"  # the file with the model's code in a directory of transformers
_CLASS = "FocalNetUperNetForSemanticSegmentation"


def write_upernet(weights: UPerNetWeights, destination: Path, *, format: str, dtype: str | None = None) -> WriteReport:
    """Writes UPerNet's weights to `destination`, which must not exist and is created only when it is complete.

    Args:
      weights: the weights to write.
      destination: a `.pth` or `.safetensors` file for "mmseg", a directory for "huggingface" and "orbax".
      format: "mmseg", "huggingface" or "orbax".
      dtype: see `write_weights`.

    Raises:
      UserError: the format cannot express the model; see also `write_weights`.
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
    if destination.suffix in PICKLES:
        import_torch(destination)  # fails before the long conversion
    tensors = cast_all(variables_to_tensors(all_variables(weights), weights.config, format), dtype)
    metadata = {HEADS: json.dumps({"pool_scales": weights.heads.pool_scales})}
    with atomic_output(destination) as partial:
        if format == "huggingface":
            partial.mkdir()
            _write_directory(partial, weights)
            metadata |= info_metadata(weights.info)
            write_tensors(partial / "model.safetensors", tensors, nested=False, metadata=metadata)
        else:
            write_model(partial, tensors, weights.info, metadata)
    files = sorted(destination.iterdir()) if format == "huggingface" else [destination]
    notes = (*value_notes(weights, dtype), *_format_notes(weights, destination, format))
    return WriteReport(len(tensors), dtype, tuple(files), notes)


def _check_expressible(weights: UPerNetWeights, format: str) -> None:
    config = weights.config
    if ablated := [name for name in ABLATIONS if not getattr(config, name)]:
        raise UserError(f"{format} has no FocalNet with {ablated[0]}=False; write it with --to orbax")
    if format == "mmseg":
        check_prenorm(weights, "mmsegmentation")
        return
    if config.use_conv_embed:
        raise UserError(
            "transformers' FocalNet pads an overlapped patch embedding by 2 pixels, the original's by 3, so its "
            f"outputs would differ: {INSTEAD}"
        )
    if len(config.depths) != 4:
        raise UserError(f"transformers' UperNet has 4 stages; this model has {len(config.depths)}: use --to orbax")
    check_factors(config, "transformers")


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
    # Images keep their size, because transformers has no processor that fits images into a box, as evaluation does.
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
    yield from normalization_notes(weights.info, "mmsegmentation")
    yield f"build the model in mmsegmentation with UPerHead({channels}, num_classes={weights.config.num_classes})"
    if destination.suffix == ".safetensors":
        yield only_pth("mmsegmentation")
    elif heads.pool_scales != USUAL_SCALES:
        yield "a torch file does not store pool_scales: give --config.head.pool_scales when this package reads it"
