"""Reads torch files without torch, and without executing anything in them.

The name of a tensor is its dotted path in the saved object. `torch.save` writes a zip of a pickle and one record per
storage. Before torch 1.6, or with `_use_new_zipfile_serialization=False`, it writes a sequence of pickles followed by
the storages (torch/serialization.py). Plain pickles of NumPy arrays, the format of detectron2's weights, are read too.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from focalnet_jax.convert.class_names import Palette, class_names_at, palette_at
from focalnet_jax.convert.mmseg_configs import CONFIGS
from focalnet_jax.convert.pickles import PERSISTENT, AttackError, Inert, Name
from focalnet_jax.convert.tensors import Tensors
from focalnet_jax.convert.torch_storages import LegacyStorages, ZipStorages, numpy_dtype, storage_dtype
from focalnet_jax.errors import UserError

_DEEPEST = 16  # nesting depth searched for tensors
_PLAIN = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")
_WRAPPED = (
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_device_tensor_from_numpy",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor",
    "torch.nn.parameter.Parameter",
)
_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
_TENSOR_TYPES = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter")
_ARRAYS = tuple(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core"))
_BUFFERS = tuple(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core"))
_DAMAGED = (zipfile.BadZipFile, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, OverflowError)


@dataclass(frozen=True)
class _Tensor:
    """A tensor of a file: dtype, shape and a function that reads it."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    place: tuple[Any, ...]  # equal for tensors that are the same view of the same storage
    problem: str | None = None  # why the tensor cannot be read


@dataclass
class _Contents:
    """Tensors and other entries found in a loaded value, by dotted path."""

    tensors: dict[str, _Tensor] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)  # types of entries that are not tensors
    class_lists: dict[str, tuple[str, ...]] = field(default_factory=dict)
    palettes: dict[str, Palette] = field(default_factory=dict)
    configs: dict[str, str] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)  # class names of pickled modules


def read_torch_file(path: Path) -> Tensors:
    """Returns the tensors of a zip or pickle file, by their dotted path in the saved object.

    Raises:
      UserError: the file cannot be read, is damaged, contains a pickled model instead of a state dict, or tries to run
        code.
    """
    try:
        mapped = np.memmap(path, np.uint8, "r")
        storages = ZipStorages(path, mapped) if mapped[:2].tobytes() == b"PK" else LegacyStorages(path, mapped)
        found = _Contents()
        _walk(Inert("", (storages.value,)), (), found, set(), storages)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except UserError:
        raise
    except AttackError as error:
        raise UserError(
            f"{path} is rejected: it tries to run {str(error)[:100]}, which no checkpoint does; nothing was run"
        ) from error
    except (*_DAMAGED, MemoryError, RecursionError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path} is damaged, truncated or not a torch file: download or copy it again") from error
    if not found.tensors and found.modules:
        raise UserError(
            f"{path} contains a pickled model, {found.modules[0][:100]}, whose classes are not imported; save only its "
            "weights: torch.save(model.state_dict(), FILE)"
        )
    return Tensors(
        {name: tensor.shape for name, tensor in found.tensors.items()},
        {name: tensor.dtype for name, tensor in found.tensors.items()},
        lambda name: found.tensors[name].read(),
        problems={name: tensor.problem for name, tensor in found.tensors.items() if tensor.problem},
        others=found.others,
        class_lists=found.class_lists,
        palettes=found.palettes,
        configs=found.configs,
        places={name: tensor.place for name, tensor in found.tensors.items()},
    )


def _children(value: Any) -> Iterator[tuple[str | None, Any]]:
    """Yields (key, value) for each entry of a container. The key is None for the arguments and state of an `Inert`."""
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from ((str(index), item) for index, item in enumerate(value))
    elif isinstance(value, Inert):
        yield from value.entries.items()
        for part in (*value.args, *(value.state if isinstance(value.state, tuple) else (value.state,))):
            if isinstance(part, dict | list | tuple | Inert):
                yield None, part
        yield from ((str(index), item) for index, item in enumerate(value.items))


def _walk(value: Any, path: tuple[str, ...], found: _Contents, seen: set[int], storages: Any) -> None:
    """Adds the tensors and other entries in a value to `found`. Visits each container once, up to `_DEEPEST` levels."""
    for key, child in _children(value):
        inside = path if key is None else (*path, key)
        names = None if key is None else class_names_at(key, child.entries if isinstance(child, Inert) else child)
        if names is not None:
            found.class_lists.setdefault(".".join(inside), names)
        if key is not None and (palette := palette_at(key, child)) is not None:
            found.palettes.setdefault(".".join(inside), palette)
        if inside[-2:] in CONFIGS and isinstance(child, str):
            found.configs.setdefault(".".join(inside), child)
        tensor = _as_tensor(child, storages)
        if tensor is not None:
            found.tensors.setdefault(".".join(inside), tensor)
        elif not isinstance(child, dict | list | tuple | Inert) or _makes_a_tensor(child):
            if isinstance(value, dict | Inert):
                found.others[".".join(inside)] = child.name if isinstance(child, Inert) else type(child).__name__
        elif isinstance(child, Inert) and isinstance(child.state, dict) and "_modules" in child.state:
            found.modules.append(child.name)
        elif id(child) not in seen and len(inside) < _DEEPEST:
            seen.add(id(child))
            _walk(child, inside, found, seen, storages)


def _makes_a_tensor(value: Any) -> bool:
    """Returns whether the value is a tensor of an unsupported kind, such as quantized, sparse or without data."""
    return isinstance(value, Inert) and value.name.startswith(("torch._utils._rebuild", "torch._tensor._rebuild"))


def _as_tensor(value: Any, storages: Any) -> _Tensor | None:
    """Returns the tensor or array that `value` describes, or None if it describes something else."""
    for _ in range(4):
        if not isinstance(value, Inert):
            return None
        if value.name in _WRAPPED and value.args:
            value = value.args[0]
        elif value.name == _FROM_TYPE and len(value.args) > 2:
            function, kind, args = value.args[:3]
            if not isinstance(kind, Name) or kind.text not in _TENSOR_TYPES or not isinstance(function, Name):
                return None
            value = Inert(function.text, args if isinstance(args, tuple) else ())
    if not isinstance(value, Inert):
        return None
    if value.name in _PLAIN and len(value.args) >= 4:
        dtype, *rest = value.args[6:] if value.name.endswith("_v3") and len(value.args) > 6 else (None, *value.args[6:])
        negative = bool(rest) and isinstance(rest[0], dict) and rest[0].get("neg") is True
        return _tensor(*value.args[:4], dtype, storages, negative)
    if value.name.startswith("torch.") and value.name.endswith("Tensor"):  # before torch 0.4
        return _tensor(*value.state, None, storages) if _length(value.state) == 4 else None
    if value.name in _ARRAYS and _length(value.state) == 5:
        return _array(*value.state[1:])
    if value.name in _BUFFERS and _length(value.args) == 4:
        content, dtype, shape, order = value.args
        return _array(shape, dtype, order == "F", content)
    return None


def _length(value: Any) -> int:
    return len(value) if isinstance(value, tuple) else 0


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, dtype: Any, storages: Any, negative: bool = False
) -> _Tensor | None:
    if not isinstance(storage, Inert) or storage.name != PERSISTENT or len(storage.args) < 5:
        return None
    _, kind, key, _, claimed, *view = storage.args
    stored = storage_dtype(kind)
    name = dtype.text.removeprefix("torch.") if isinstance(dtype, Name) else str(stored)
    shape, strides = (value.args[0] if isinstance(value, Inert) and value.args else value for value in (shape, strides))
    if stored is None or not _whole_numbers([offset]) or not _whole_numbers(shape) or not _whole_numbers(strides):
        return None
    if view and view[0]:  # the storage is a part of a larger one: (key, offset, size)
        offset += view[0][1]
    element = numpy_dtype(name)
    key, numel = str(key), int(np.prod([int(size) for size in shape], dtype=object))
    end = offset + 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if numel else 0
    problem = None
    if element is None:
        problem = f"has dtype {name}; expected plain data"
    elif max(end, numel) * element.itemsize > storages.size(key) or not _fits(claimed, stored, storages.size(key)):
        problem = f"has shape {tuple(shape)}, but its storage has a different size; expected plain data"

    def read() -> np.ndarray:
        steps = [stride * element.itemsize for stride in strides]
        stored = np.ndarray(shape, element, storages.bytes(key), offset * element.itemsize, steps)
        # torch negates lazily, such as in x.conj().imag, and stores the values before the negation.
        return -stored if negative else stored

    return _Tensor(name, tuple(shape), read, (key, offset, tuple(shape), tuple(strides), negative), problem)


def _fits(count: Any, dtype: np.dtype, size: int) -> bool:
    """Returns whether a storage of `size` bytes contains exactly `count` values."""
    return type(count) is int and count * dtype.itemsize == size


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(type(value) is int and 0 <= value < 2**62 for value in values)


def _array(shape: Any, dtype: Any, fortran: Any, content: Any) -> _Tensor | None:
    """Returns a pickled NumPy array as a tensor, or None if it is not plain little-endian data of the expected size."""
    code = dtype.args[0] if isinstance(dtype, Inert) and dtype.name == "numpy.dtype" and dtype.args else None
    order = dtype.state[1] if code and _length(dtype.state) > 1 else "<"
    if (
        not isinstance(code, str)
        or not isinstance(content, bytes | bytearray)
        or not _whole_numbers(shape)
        or order not in "<|="
    ):
        return None
    element = np.dtype(code) if code[:1] in "fiub" and code[1:].isdigit() else None
    if element is None or int(np.prod(shape, dtype=object)) * element.itemsize != len(content):
        return None

    def read() -> np.ndarray:
        return np.frombuffer(content, element).reshape(shape, order="F" if fortran else "C")

    return _Tensor(str(element), tuple(shape), read, (id(content),))


def import_torch(path: Path) -> Any:
    """Returns the torch module, which is needed only to write `path`. Raises `UserError` if it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"writing {path.name} needs torch, which is not installed: pip install torch, or write .safetensors"
        ) from error
    return torch


def to_torch(torch: Any, array: np.ndarray) -> Any:
    """Returns an array as a torch tensor that shares the array's memory."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
