"""Torch pickles: only tensors are read from them, and nothing in them is executed."""

from __future__ import annotations

import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from focalnet_jax.convert.tensors import Tensors
from focalnet_jax.errors import UserError

_AVERAGED = ("state_dict_ema", "model_ema", "ema", "ema_state_dict")
_NESTED = ("model", "state_dict", "model_state_dict")  # where checkpoints keep the weights


class _Inert:
    """Stands for an object that lies beside the weights in a training checkpoint; it does nothing."""

    def __init__(self, *ignored: Any):
        pass

    def __setstate__(self, ignored: Any) -> None:
        pass


# What trainers save beside the weights: the original a configuration, timm its arguments, others figures and dates.
_BESIDE_WEIGHTS = [
    (OrderedDict, "yacs.config.CfgNode"),
    *(
        (_Inert, name)
        for name in (
            "argparse.Namespace",
            "numpy.dtype",
            "numpy.ndarray",
            *(f"numpy.{core}.multiarray.{name}" for core in ("_core", "core") for name in ("scalar", "_reconstruct")),
            *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
            *(f"datetime.{name}" for name in ("datetime", "date", "timedelta")),
        )
    ),
]


def import_torch(path: Path) -> Any:
    """The torch module; `UserError` where it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path.name} is a torch file and torch is not installed: pip install torch, or use .safetensors"
        ) from error
    return torch


def read_pickle(path: Path) -> Tensors:
    """The tensors of a torch file; errors as `read_tensors`."""
    begins = _first_bytes(path)
    if not begins.startswith((b"PK", b"\x80")):  # a zip, or what torch wrote before, a pickle
        raise UserError(f"{path} is damaged or no torch file: it begins neither as a zip nor as a pickle")
    torch = import_torch(path)
    try:
        # Classes of what lies beside the weights are not loaded: inert ones take their place.
        with torch.serialization.safe_globals(_BESIDE_WEIGHTS), warnings.catch_warnings(action="ignore"):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=begins == b"PK")
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it wants to load {blocked[1]}" if blocked else "it is damaged or no torch file"
        raise UserError(f"{path} is refused: {what}; only tensors are read from it") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # damaged bytes make the unpickler fail in any way, with messages of no use
        raise UserError(f"{path} is damaged, cut off or no torch file") from error
    tensors, notes = _weights_in(loaded, path, torch)

    def read(name: str) -> np.ndarray:
        tensor = tensors[name].detach()
        if tensor.dtype == torch.bfloat16:
            return tensor.contiguous().view(torch.int16).numpy().view(bfloat16)
        return tensor.numpy()

    return Tensors(
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()},
        read,
        notes,
    )


def _first_bytes(path: Path) -> bytes:
    """Two, by which torch's formats are told; one of them, zip, can be mapped into memory."""
    try:
        with path.open("rb") as file:
            return file.read(2)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _state_dict(loaded: Any, torch: Any, within: str = "") -> tuple[str, Mapping[str, Any]] | None:
    """Where in what a trainer saved the state dict lies, and the state dict."""
    if not isinstance(loaded, Mapping):
        return None
    inner = (_state_dict(loaded.get(key), torch, f"{within}{key}.") for key in (*_NESTED, *_AVERAGED))
    found = next(filter(None, inner), None)
    if found is None and any(isinstance(value, torch.Tensor) for value in loaded.values()):
        found = within, loaded
    return found


def _weights_in(loaded: Any, path: Path, torch: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The tensors of a checkpoint by name, and notes."""
    where, found = _state_dict(loaded, torch) or ("", None)
    if found is None:
        raise UserError(f"{path} holds no state dict; expected tensors by name, or nested in {' or '.join(_NESTED)}")
    notes = []
    if where:
        taken = where.partition(".")[0]
        others = [key for key in (*_NESTED, *_AVERAGED) if key != taken and isinstance(loaded.get(key), Mapping)]
        notes += [f"{key} lies beside {taken} and was left" for key in others]
        notes += [f"these are the averaged weights, {taken}"] * (taken in _AVERAGED)
    tensors = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
    others = [str(name) for name in found if str(name) not in tensors]
    if others:
        notes.append(f"{len(others)} entries that are no tensors were left, such as {others[0][:100]}")
    for name, tensor in tensors.items():
        if tensor.device.type != "cpu" or tensor.layout != torch.strided:
            raise UserError(f"{path}: {name} is a {tensor.device.type} {tensor.layout} tensor; expected plain data")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"{path}: {name} is {tuple(tensor.shape)} and the file holds less; expected plain data")
    return tensors, tuple(notes)


def to_torch(torch: Any, array: np.ndarray) -> Any:
    """The tensor that shares the array's memory."""
    if array.dtype == bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
