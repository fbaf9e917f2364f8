"""Writes weights as a torch or safetensors file, a Hugging Face directory, or a checkpoint of this package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from focalnet_jax.checkpoint.weights import save_params
from focalnet_jax.convert.files import METADATA, OPTIONS, PICKLES, atomic_output, write_tensors
from focalnet_jax.convert.huggingface import check_factors, write_config_files
from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.mapping import params_to_tensors
from focalnet_jax.convert.recognise import NOT_FROM_SHAPES, released_name
from focalnet_jax.convert.tensors import DTYPES
from focalnet_jax.convert.timm import timm_arguments, timm_name, write_timm_config
from focalnet_jax.convert.torch_files import import_torch
from focalnet_jax.convert.weights import Weights, describe_non_finite
from focalnet_jax.errors import UserError
from focalnet_jax.model.variants import ABLATIONS, model_metadata, variant_config
from focalnet_jax.parameters import named_leaves

_NEVER_WRITTEN = (".ckpt", ".pkl", ".model")  # suffixes that are only read; also refused for directories


@dataclass(frozen=True)
class WriteReport:
    """Number, dtype and files of the written tensors, and notes."""

    tensors: int
    dtype: str
    files: tuple[Path, ...]
    notes: tuple[str, ...]  # for the user, one line each


def write_weights(
    weights: Weights,
    destination: Path,
    *,
    format: str,
    dtype: str | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> WriteReport:
    """Writes weights of a FocalNet to `destination`, which must not exist and is created only when it is complete.

    Args:
      weights: the weights to write.
      destination: a `.pth` or `.safetensors` file for "microsoft", either a file or a directory for "timm", and a
        directory for "huggingface" and "orbax".
      format: output format: "microsoft", "timm", "huggingface" or "orbax".
      dtype: dtype of the tensors; by default the dtype of the source, or float32 for float64. Must be given if the
        source has several dtypes. Checkpoints of this package are always float32.
      image_size: input size in pixels for a Hugging Face config; by default the size stored with the weights, or 224.

    Raises:
      UserError: the format cannot express the model, `destination` does not fit the format or exists, `dtype` is
        unknown or cannot represent the values, or torch is needed and not installed.
    """
    if format == "orbax":
        return write_checkpoint(weights, destination, dtype)
    dtype = chosen_dtype(weights.dtype, dtype)
    as_file = destination.suffix in (*PICKLES, ".safetensors")
    as_directory = format == "huggingface" or (format == "timm" and not as_file)
    if as_directory == as_file or destination.suffix in _NEVER_WRITTEN:
        expected = "a directory" if as_directory else "a .pth or .safetensors file"
        if format == "timm":
            expected = "a .pth or .safetensors file, or a directory"
        raise UserError(f"{destination.name}: --to {format} writes {expected}")
    if destination.suffix in PICKLES:
        import_torch(destination)  # fails before the long conversion
    _check_expressible(weights, format)
    notes = value_notes(weights, dtype)
    notes += () if as_directory else _file_notes(weights, format, destination)
    with atomic_output(destination) as partial:
        file, in_metadata = partial, weights.info
        if as_directory:
            partial.mkdir()
            if format == "timm":
                file_notes, in_metadata = write_timm_config(partial, weights.config, weights.name, weights.info)
            else:
                file_notes, in_metadata = write_config_files(partial, weights.config, weights.info, image_size)
            notes += file_notes
            file = partial / "model.safetensors"
        tensors = {
            name: cast(name, array, dtype) for name, array in params_to_tensors(weights.params, weights.config, format)
        }
        metadata = {}
        if not as_directory and file.suffix == ".safetensors" and released_name(weights.config) is None:
            metadata[OPTIONS] = json.dumps({key: getattr(weights.config, key) for key in NOT_FROM_SHAPES})
        if in_metadata not in (None, WeightsInfo()):
            if file.suffix == ".safetensors":
                metadata[METADATA] = json.dumps(in_metadata.to_dict())
            else:
                notes += ("a torch file cannot store preprocessing and class names; a .safetensors file can",)
        write_tensors(file, tensors, nested=format == "microsoft", metadata=metadata or None)
    files = sorted(destination.iterdir()) if as_directory else [destination]
    return WriteReport(len(tensors), dtype, tuple(files), notes)


def chosen_dtype(given: str, requested: str | None) -> str:
    """Returns the dtype to write for weights of dtype `given`, by default the same, or float32 for float64.

    Raises:
      UserError: the dtype is not a key of `DTYPES`, for example because `given` is several dtypes.
    """
    dtype = requested or ("float32" if given == "float64" else given)  # parameters are float32
    if dtype not in DTYPES:
        raise UserError(f"the weights are {dtype}: choose the dtype to write with --dtype {'|'.join(DTYPES)}")
    return dtype


def cast(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """Returns an array of weights in another dtype. Raises `UserError` if the dtype cannot represent the values."""
    with np.errstate(over="ignore"):  # reported below
        cast = array.astype(DTYPES[dtype], copy=False)
    if not np.array_equal(np.isfinite(cast), np.isfinite(array)):
        largest = np.abs(array[np.isfinite(array)]).max()
        raise UserError(f"{name} has values up to {largest:.3g}, too large for {dtype}; choose another --dtype")
    if 2 * np.count_nonzero(cast) < np.count_nonzero(array):
        raise UserError(f"most of {name} is too small for {dtype} and would be 0; choose another --dtype")
    return cast


def value_notes(weights: Weights, dtype: str) -> tuple[str, ...]:
    """Returns notes on the values written with `dtype`: a cast, and values that are not finite."""
    notes = []
    if weights.dtype != dtype:
        notes.append(f"cast from {weights.dtype} to {dtype}")
    elif dtype != "float32":
        notes.append(f"{dtype} as in the source; --dtype float32 casts")
    if broken := describe_non_finite(weights.params):
        notes.append(f"warning: {broken}")
    return tuple(notes)


def write_checkpoint(
    weights: Weights,
    destination: Path,
    dtype: str | None,
    *,
    statistics: Any = None,
    described: Mapping[str, Any] | None = None,
) -> WriteReport:
    """Writes a checkpoint of this package.

    Args:
      weights: the weights to write.
      destination: the directory.
      dtype: dtype that the user requested, if any.
      statistics: variables that are not parameters, as a tree, or None without such variables.
      described: further entries of the metadata.

    Raises:
      UserError: see `write_weights`.
    """
    if dtype not in (None, "float32"):
        raise UserError(f"--dtype {dtype}: checkpoints store float32 parameters; omit the flag")
    if destination.suffix in (*PICKLES, ".safetensors"):
        raise UserError(f"{destination.name}: --to orbax writes a directory")
    with atomic_output(destination) as partial:
        metadata = {"model": model_metadata(weights.name, weights.config), "stated": weights.info.to_dict()}
        save_params(partial, weights.params, metadata | dict(described or {}), statistics)
    count = len(named_leaves(weights.params)) + len(named_leaves(statistics or {}))
    return WriteReport(count, "float32", (destination,), value_notes(weights, "float32"))


def _check_expressible(weights: Weights, format: str) -> None:
    config = weights.config
    if ablated := [name for name in ABLATIONS if not getattr(config, name)]:
        raise UserError(f"{format} has no FocalNet with {ablated[0]}=False; write it with --to orbax")
    if format == "huggingface" and not config.num_classes:
        raise UserError("transformers needs a classifier; these weights have none: write them in another format")
    if format == "microsoft" and len(config.depths) == 1 and config.patch_size == 7 and not config.use_conv_embed:
        raise UserError(
            "microsoft's format cannot distinguish one stage with patches of 7 from an overlapped embedding: write it "
            "with --to orbax"
        )
    if format == "timm" and config.patch_size != 4:
        raise UserError(
            f"timm's FocalNet has patches of 4; this model has {config.patch_size}: write it with --to orbax"
        )
    if format != "microsoft":
        check_factors(config, {"huggingface": "transformers"}.get(format, format))


def _file_notes(weights: Weights, format: str, destination: Path) -> tuple[str, ...]:
    """Returns one-line notes on how to build the model with the options that the file does not contain."""
    config, notes = weights.config, []
    if format == "timm" and timm_name(config, weights.name) is None:
        arguments = {"num_classes": config.num_classes, **timm_arguments(config)}
        call = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        notes.append(
            f"timm.create_model has no name for this model: load the file into timm.models.focalnet.FocalNet({call})"
        )
    elif format == "timm":
        if config.normalize_modulator:
            notes.append("normalize_modulator is off in timm's variant: create the model with normalize_modulator=True")
        if config.num_classes != variant_config(weights.name).num_classes:
            notes.append(f"create the timm model with num_classes={config.num_classes}")
    if destination.suffix in PICKLES and released_name(config) is None:
        # The tensor names of timm determine use_postln.
        options = [key for key in NOT_FROM_SHAPES if (format, key) != ("timm", "use_postln")]
        flags = " ".join(f"--option {key}={str(getattr(config, key)).lower()}" for key in options)
        notes.append(f"a torch file does not store {' and '.join(options)}: this package reads it with {flags}")
    return tuple(notes)
