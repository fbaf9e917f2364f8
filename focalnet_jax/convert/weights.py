"""Weights of any format as a model's parameters, with what was recognised about them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from focalnet_jax.checkpoint.steps import find_checkpoint, read_metadata
from focalnet_jax.checkpoint.weights import read_params, weights_item
from focalnet_jax.convert.beside import options_in, stated_of, with_layer
from focalnet_jax.convert.directories import choose_file
from focalnet_jax.convert.files import is_checkpoint, read_json, read_tensors
from focalnet_jax.convert.huggingface import CONFIG, PREPROCESSOR, WeightsInfo, stated_from, told_by_config
from focalnet_jax.convert.mapping import abstract_params, to_ours
from focalnet_jax.convert.parts import is_quantized
from focalnet_jax.convert.recognise import Recognised, recognise, released_name, untagged
from focalnet_jax.convert.select import select
from focalnet_jax.convert.tensors import READ_DTYPES
from focalnet_jax.convert.timm import told_by_timm
from focalnet_jax.data.preprocessing import from_config
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.model import FocalNetConfig, variant_config
from focalnet_jax.model.variants import model_from_metadata
from focalnet_jax.parameters import named_leaves


@dataclass(frozen=True)
class Weights:
    """Parameters, float32, and where they come from."""

    params: Any
    config: FocalNetConfig
    name: str | None  # the released variant, if it is one
    format: str  # microsoft, timm, huggingface or orbax
    dtype: str  # of the file, such as "float16", or "float16 and float32"
    notes: tuple[str, ...]  # what a reader should know, a line each
    stated: WeightsInfo = field(default_factory=WeightsInfo)  # about pictures and classes
    decisions: tuple[str, ...] = ()  # notes on what was chosen and changes what is computed

    @property
    def count(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in named_leaves(self.params).values())


def read_weights(
    path: str | Path,
    name: str | None = None,
    options: Mapping[str, bool] | None = None,
    assumed: Mapping[str, bool] | None = None,
    *,
    which: str | None = None,
    head: str = "keep",
) -> Weights:
    """Weights at `path`: a torch or safetensors file, a directory of them, or a checkpoint of this package.

    A FocalNet is found under any key or prefix of a file; what lies beside it is left, and the notes count it. A
    backbone without a classifier has 0 classes, and one without a final norm gets a fresh one, as a note says. A linear
    layer behind a backbone is its classifier, and a layer before it that normalizes pictures their preprocessing.

    Args:
      path: a file or directory.
      name: the variant it is; recognised by default.
      options: `use_postln` and `normalize_modulator`, which shapes cannot tell, as the user knows them.
      assumed: the same where nothing in or beside the file tells, as the model to fill has them.
      which: which weights of several: "ema" for averaged ones, a key or prefix such as "teacher", or a file of a
        directory such as "model_1".
      head: "drop" leaves a classifier of a form that FocalNet does not have.

    Raises:
      UserError: nothing readable there, it is not what `name` says, or the file holds several models to choose from.
    """
    path = Path(os.path.expanduser(path))
    if name is not None:
        name = untagged(name)
        variant_config(name)  # an unknown one is told before anything is read
    if is_checkpoint(path):
        return _from_checkpoint(find_checkpoint(str(path)), name, options or {}, which)
    folder = path if path.is_dir() else _folder_of(path)
    path, which, decisions = choose_file(path, which)
    selected = select(read_tensors(path), str(path), which, head)
    tensors, format = selected.tensors, selected.format
    told: Mapping[str, Any] = told_by_config(folder) if format == "huggingface" else {}
    if format == "timm" and (folder / CONFIG).is_file():
        told = told_by_timm(read_json(folder / CONFIG), options or ())
    own = {} if told else options_in(path)
    found = recognise(
        tensors.shapes,
        format=format,
        name=name,
        told=told or own,
        told_by="its metadata" if own else CONFIG,
        overrides=options,
        assumed=assumed,
    )
    dtype = _dtypes(tensors.dtypes)
    params = to_ours(tensors, found.config, format)
    notes = [*decisions, *tensors.notes, *selected.notes]
    for key in ("use_postln", "normalize_modulator"):
        notes.append(f"{key}={getattr(found.config, key)} by {found.sources[key]}")
    trained_with = {key: told[key] for key in ("drop_path_rate", "drop_rate", "layerscale_value") if key in told}
    config = dataclasses.replace(found.config, **trained_with)
    stated, layers = with_layer(stated_of(path, folder, format, config.num_classes), selected.normalization)
    said = [*layers, *_otherwise_in_timm(found, format), *_otherwise_in_transformers(found.config, format, stated)]
    decisions = (*decisions, *selected.decisions, *said)
    return Weights(params, config, found.name, format, dtype, (*notes, *said), stated, decisions)


def _folder_of(file: Path) -> Path:
    """The folder whose files describe a file of weights: its own, or that of the file which it links to."""
    own = file.parent
    described = (own / CONFIG).is_file() or (own / PREPROCESSOR).is_file()
    return file.resolve().parent if file.is_symlink() and not described else own


def _otherwise_in_timm(found: Recognised, format: str) -> list[str]:
    """What a reader should know where timm's model of these shapes computes otherwise than the original's variant."""
    by_variant = found.sources["normalize_modulator"].startswith("variant")
    if format != "timm" or not (by_variant and found.config.normalize_modulator):
        return []
    return [
        f"normalize_modulator=True as the original's {found.name} has it; timm's has it off: for weights trained there "
        "state --option normalize_modulator=false (normalize_modulator=False in Python)"
    ]


def _otherwise_in_transformers(config: FocalNetConfig, format: str, stated: WeightsInfo) -> list[str]:
    """What a reader should know where transformers computes other logits for pictures of the size that is stated."""
    stride = config.patch_size * 2 ** (len(config.depths) - 1)
    if format != "huggingface" or stated.preprocessing is None:
        return []
    height, width = stated.preprocessing.size
    if height % stride == width % stride == 0:
        return []
    return [
        f"pictures of {height}x{width} are no multiple of {stride}: transformers pads their maps where strides do not "
        "divide them, the original and this package leave the rest out, so that logits differ"
    ]


def _dtypes(dtypes: Mapping[str, str]) -> str:
    found = sorted(set(dtypes.values()))
    foreign = [dtype for dtype in found if dtype not in READ_DTYPES]
    if foreign:
        where = next(name for name, dtype in dtypes.items() if dtype == foreign[0])
        if is_quantized(foreign[0]):
            raise UserError(f"{where} is {foreign[0]}, quantized; save the model as it was before it was quantized")
        raise UserError(f"{where} is {foreign[0]}; expected {', '.join(READ_DTYPES)}")
    return " and ".join(found)


def _from_checkpoint(step: Path, name: str | None, options: Mapping[str, bool], which: str | None) -> Weights:
    check_which(step, which)
    with _reading(step):
        metadata = read_metadata(step)
        stored = metadata.get("model")
        if stored is None:
            raise UserError(f"{step} does not say which model it holds; it was not written by this package")
        _, config = model_from_metadata(stored)
    held = released_name(config)
    if name not in (None, held):
        raise UserError(f"{step} holds {held or 'no released variant'}, not {name}: leave the name out")
    for key, value in options.items():
        if getattr(config, key) != value:
            raise UserError(f"{key}={value} was given, and the checkpoint says {getattr(config, key)}")
    with _reading(step):
        params = read_params(step, abstract_params(config))
    return Weights(params, config, held, "orbax", "float32", (f"read from {step}",), stated_by(metadata))


def check_which(step: Path, which: str | None) -> None:
    """Raises `UserError` if a checkpoint of this package does not hold the weights that were chosen."""
    if which not in (None, weights_item(step)):
        raise UserError(f"--weights {which}: {step} gives its {weights_item(step)}; the choice is for PyTorch's files")


@contextmanager
def _reading(step: Path) -> Iterator[None]:
    """Names the step in what goes wrong."""
    try:
        yield
    except (RunFailedError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{step} cannot be read: {error}") from error


def stated_by(metadata: Mapping[str, Any]) -> WeightsInfo:
    """What a checkpoint says of pictures and classes: a run's by its config, another's by what it was made from."""
    if "stated" in metadata:
        return stated_from(metadata["stated"], "the checkpoint's preprocessor")
    data = metadata.get("config", {}).get("data", {})
    classes = tuple(metadata["classes"]) if "classes" in metadata else None
    return WeightsInfo(classes, exact=True, preprocessing=from_config(data) if "image_size" in data else None)
