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
from focalnet_jax.checkpoint.weights import read_params
from focalnet_jax.convert.files import is_checkpoint, read_tensors
from focalnet_jax.convert.huggingface import Stated, preprocessor, stated_beside, told_by_config
from focalnet_jax.convert.mapping import abstract_params, to_ours
from focalnet_jax.convert.recognise import recognise, recognise_format, released_name
from focalnet_jax.convert.tensors import DTYPES, Tensors
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.model import FocalNetConfig, variant_config
from focalnet_jax.model.variants import model_from_metadata
from focalnet_jax.paths import named_leaves


@dataclass(frozen=True)
class Weights:
    """Parameters, float32, and where they come from."""

    params: Any
    config: FocalNetConfig
    name: str | None  # the released variant, if it is one
    format: str  # microsoft, timm, huggingface or orbax
    dtype: str  # of the file, such as "float16", or "float16 and float32"
    notes: tuple[str, ...]  # what a reader should know, a line each
    stated: Stated = field(default_factory=Stated)  # about pictures and classes

    @property
    def count(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in named_leaves(self.params).values())


def read_weights(
    path: str | Path,
    name: str | None = None,
    options: Mapping[str, bool] | None = None,
    assumed: Mapping[str, bool] | None = None,
) -> Weights:
    """Weights at `path`: a `.pth`, a `.safetensors`, a Hugging Face directory, or a checkpoint of ours.

    Args:
      path: a file or directory.
      name: the variant it is; recognised by default.
      options: `use_postln` and `normalize_modulator`, which shapes cannot tell, as the user knows them.
      assumed: the same where nothing in or beside the file tells, as the model to fill has them.

    Raises:
      UserError: nothing readable there, or it is not what `name` says.
    """
    path = Path(os.path.expanduser(path))
    if name is not None:
        variant_config(name)  # an unknown one is told before anything is read
    if is_checkpoint(path):
        return _from_checkpoint(find_checkpoint(str(path)), name, options or {})
    tensors = read_tensors(path)
    format, prefix = recognise_format(tensors.shapes)
    tensors, notes = _without_prefix(tensors, prefix)
    folder = path if path.is_dir() else path.parent
    told = told_by_config(folder) if format == "huggingface" else {}
    found = recognise(tensors.shapes, format=format, name=name, told=told, overrides=options, assumed=assumed)
    dtype = _dtypes(tensors.dtypes)
    params = to_ours(tensors, found.config, format)
    for key in ("use_postln", "normalize_modulator"):
        notes.append(f"{key}={getattr(found.config, key)} by {found.sources[key]}")
    trained_with = {key: told[key] for key in ("drop_path_rate", "drop_rate", "layerscale_value") if key in told}
    config = dataclasses.replace(found.config, **trained_with)
    stated = stated_beside(folder, config.num_classes) if format == "huggingface" else Stated()
    return Weights(params, config, found.name, format, dtype, (*tensors.notes, *notes), stated)


def _without_prefix(tensors: Tensors, prefix: str) -> tuple[Tensors, list[str]]:
    """The tensors by the format's names, and notes."""
    if not prefix:
        return tensors, []
    if prefix.startswith("-"):  # the file lacks a prefix the format has
        return tensors.renamed({prefix[1:] + name: name for name in tensors}), [f"{prefix[1:]!r} put before the names"]
    others = [name for name in tensors if not name.startswith(prefix)]
    if others:
        raise UserError(
            f"{len(tensors) - len(others)} tensors begin with {prefix!r} and {len(others)} do not, such as "
            f"{', '.join(others[:3])}; expected one or the other"
        )
    return tensors.renamed({name.removeprefix(prefix): name for name in tensors}), [
        f"prefix {prefix!r} taken off the names"
    ]


def _dtypes(dtypes: Mapping[str, str]) -> str:
    found = sorted(set(dtypes.values()))
    foreign = [dtype for dtype in found if dtype not in DTYPES]
    if foreign:
        where = next(name for name, dtype in dtypes.items() if dtype == foreign[0])
        raise UserError(f"{where} is {foreign[0]}; expected {', '.join(DTYPES)}")
    return " and ".join(found)


def _from_checkpoint(step: Path, name: str | None, options: Mapping[str, bool]) -> Weights:
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


@contextmanager
def _reading(step: Path) -> Iterator[None]:
    """Names the step in what goes wrong."""
    try:
        yield
    except (RunFailedError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{step} cannot be read: {error}") from error


def stated_by(metadata: Mapping[str, Any]) -> Stated:
    """What a checkpoint says of pictures and classes: a run's by its config, another's by what it was made from."""
    if "stated" in metadata:
        stated = dict(metadata["stated"])
        classes = stated.pop("classes")
        return Stated(**stated, classes=None if classes is None else tuple(classes))
    data = metadata.get("config", {}).get("data", {})
    size = data.get("image_size")
    classes = tuple(metadata["classes"]) if "classes" in metadata else None
    return Stated(
        classes, exact=True, image_size=size, preprocessor=size and preprocessor(size, data.get("eval_resize"))
    )
