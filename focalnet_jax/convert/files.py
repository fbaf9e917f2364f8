"""Reading and writing weight files: torch pickles and safetensors, also sharded.

Nothing in a file is executed: pickles are read with `weights_only=True`, never without. Inputs are not modified, and
an output has its name only when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from focalnet_jax.errors import UserError

PICKLES = (".pth", ".pt", ".bin", ".tar")  # .pth.tar
DTYPES = {"float32": np.dtype("float32"), "float16": np.dtype("float16"), "bfloat16": np.dtype(bfloat16)}
_SAFETENSORS_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_AVERAGED = ("state_dict_ema", "model_ema", "ema", "ema_state_dict")
_NESTED = ("model", "state_dict", "model_state_dict")  # where checkpoints keep the weights
_HUGGINGFACE_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)


class Tensors(Mapping[str, np.ndarray]):
    """Tensors of a file by name, each read when it is asked for; `notes` is what a reader should know of the file."""

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        dtypes: dict[str, str],
        read: Callable[[str], np.ndarray],
        notes: tuple[str, ...] = (),
    ):
        self.shapes, self.dtypes, self._read, self.notes = shapes, dtypes, read, notes

    def __getitem__(self, name: str) -> np.ndarray:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def renamed(self, names: Mapping[str, str]) -> Tensors:
        """The tensors named by the keys of `names`, under its values' names in this file."""
        return Tensors(
            {new: self.shapes[old] for new, old in names.items()},
            {new: self.dtypes[old] for new, old in names.items()},
            lambda new: self._read(names[new]),
            self.notes,
        )


def is_checkpoint(path: str | Path) -> bool:
    """Whether `path` is a directory to look for a checkpoint of ours in, rather than one of weight files."""
    path = Path(path)
    try:
        return path.is_dir() and not any((path / name).is_file() for name in _HUGGINGFACE_FILES)
    except OSError as error:
        raise UserError(f"cannot read {str(path)[:100]}: {error.strerror}") from error


def weight_files(path: Path) -> list[Path]:
    """The files that hold the weights at `path`: itself, its shards, or what a Hugging Face directory holds.

    Raises:
      UserError: there is nothing there that this module reads.
    """
    if path.is_dir():
        for name in _HUGGINGFACE_FILES:
            if (path / name).is_file():
                return weight_files(path / name)
        raise UserError(f"{path} holds no weights; expected a checkpoint or one of {', '.join(_HUGGINGFACE_FILES)}")
    if not path.is_file():
        raise UserError(f"there is no checkpoint or weights file at {path}")
    if path.name.endswith(".index.json"):
        beside = {entry.name for entry in path.parent.iterdir() if entry.is_file()}
        shards = sorted(set(_weight_map(path).values()))
        absent = [name for name in shards if name not in beside]
        if absent:
            raise UserError(f"{path} names the shard {absent[0][:100]}, which is not beside it")
        return [path.parent / name for name in shards]
    if path.suffix not in (*PICKLES, ".safetensors"):
        raise UserError(f"{path.name}: expected .safetensors, .pth, an index of shards, or a directory")
    return [path]


def read_tensors(path: Path) -> Tensors:
    """All tensors at `path`.

    Raises:
      UserError: the file is missing, damaged, holds something else than tensors, or torch is needed and not installed.
    """
    files = weight_files(path)
    parts = [_read_pickle(file) if file.suffix in PICKLES else _read_safetensors(file) for file in files]
    if len(parts) == 1:
        return parts[0]
    owner = {name: part for part in parts for name in part}
    index = path
    if path.is_dir():
        index = next(path / name for name in _HUGGINGFACE_FILES if (path / name).is_file())
    differing = sorted(owner.keys() ^ _weight_map(index).keys())
    if differing or len(owner) != sum(map(len, parts)):
        raise UserError(f"{index} and its shards disagree on {', '.join(differing[:5]) or 'tensors held twice'}")
    return Tensors(
        {name: part.shapes[name] for name, part in owner.items()},
        {name: part.dtypes[name] for name, part in owner.items()},
        lambda name: owner[name][name],
    )


def _weight_map(index: Path) -> dict[str, str]:
    """Shard by tensor."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise UserError(f"{index} is no index of shards: it has no weight_map from tensors to files")
    return shards


def _read_safetensors(path: Path) -> Tensors:
    import safetensors

    try:
        file = safetensors.safe_open(path, framework="numpy")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or no safetensors file: {error}") from error
    dtypes = {name: _SAFETENSORS_DTYPES.get(part.get_dtype(), part.get_dtype()) for name, part in slices.items()}
    shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    return Tensors(shapes, dtypes, file.get_tensor)


class _Inert:
    """Stands for an object that lies beside the weights in a training checkpoint; it does nothing."""

    def __init__(self, *ignored: Any):
        pass

    def __setstate__(self, ignored: Any) -> None:
        pass


# What the original (its configuration), timm (its arguments) and others (figures) save beside the weights.
_BESIDE_WEIGHTS = [
    (OrderedDict, "yacs.config.CfgNode"),
    *((_Inert, name) for name in ("argparse.Namespace", "numpy.dtype", "numpy._core.multiarray.scalar")),
    (_Inert, "numpy.core.multiarray.scalar"),
]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; `UserError` for anything else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object")
    return content


def import_torch(path: Path) -> Any:
    """The torch module; `UserError` where it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path.name} is a torch file and torch is not installed: pip install torch, or use .safetensors"
        ) from error
    return torch


def _read_pickle(path: Path) -> Tensors:
    torch = import_torch(path)
    try:
        # Classes of what lies beside the weights are not loaded: inert ones take their place.
        with torch.serialization.safe_globals(_BESIDE_WEIGHTS), warnings.catch_warnings(action="ignore"):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it wants to load {blocked[1]}" if blocked else "it is damaged or no torch file"
        raise UserError(f"{path} is refused: {what}; only tensors are read from it") from error
    except Exception as error:  # damaged bytes make the unpickler fail in any way
        raise UserError(f"{path} is damaged or no torch file: {error or type(error).__name__}") from error
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


def _is_zip(path: Path) -> bool:
    """Whether the file is in the format that can be mapped into memory."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _state_dict(loaded: Any, torch: Any) -> Mapping[str, Any] | None:
    """The state dict in what a trainer saved: itself, or nested."""
    if not isinstance(loaded, Mapping):
        return None
    if any(isinstance(value, torch.Tensor) for value in loaded.values()):
        return loaded
    return next(filter(None, (_state_dict(loaded.get(key), torch) for key in _NESTED)), None)


def _weights_in(loaded: Any, path: Path, torch: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The tensors of a checkpoint by name, and notes."""
    found = _state_dict(loaded, torch)
    if found is None:
        raise UserError(f"{path} holds no state dict; expected tensors by name, or nested in {' or '.join(_NESTED)}")
    averaged = [key for key in loaded if key in _AVERAGED]
    notes = tuple(f"{key}, averaged weights, lies beside these and was left" for key in averaged)
    tensors = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
    for name, tensor in tensors.items():
        if tensor.device.type != "cpu" or tensor.layout != torch.strided:
            raise UserError(f"{path}: {name} is a {tensor.device.type} {tensor.layout} tensor; expected plain data")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"{path}: {name} is {tuple(tensor.shape)} and the file holds less; expected plain data")
    return tensors, notes


def write_tensors(path: Path, tensors: dict[str, np.ndarray], *, nested: bool) -> None:
    """Writes `.safetensors`, or a torch pickle with the tensors under "model" if `nested`."""
    import safetensors.numpy

    try:
        if path.suffix == ".safetensors":
            path.touch()
            mode = path.stat().st_mode
            safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
            path.chmod(mode)  # the library leaves a file for its owner alone
            return
        torch = import_torch(path)
        state = {name: _to_torch(torch, array) for name, array in tensors.items()}
        torch.save({"model": state} if nested else state, path)
    except (safetensors.SafetensorError, RuntimeError) as error:  # how these libraries report a full disk
        raise OSError(str(error).splitlines()[0]) from error


def _to_torch(torch: Any, array: np.ndarray) -> Any:
    if array.dtype == bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, which becomes `path` at the end and vanishes on an error.

    Raises:
      UserError: `path` exists, or its folder cannot be written.
    """
    partial = path.with_name(f".partial-{os.getpid()}{path.suffix}")
    made: list[Path] = []
    try:
        if path.exists():
            raise UserError(f"{path} exists already; nothing was written: remove it or name another")
        made = [folder for folder in path.parents if not folder.exists()]  # the innermost first
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
        made = []
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):
            partial.unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()


def sha256(path: Path) -> str:
    """The hexadecimal digest of a file, or of `sha256sum`'s lines for all files of a directory in sorted order."""
    if path.is_dir():
        files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        return hashlib.sha256("".join(f"{sha256(path / name)}  {name}\n" for name in files).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
