"""Writes torch files without torch: pickle opcodes of protocol 2, which may call any function without importing it."""

import struct
import zipfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np

STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "int64": "LongStorage"}
LEGACY = 0x1950A86A20F9469CFC6C


@dataclass
class Call:
    """A call in a pickle: a function ("module name"), its arguments, and the state and entries of the result."""

    function: str
    args: tuple[Any, ...] = ()
    state: Any = None
    entries: dict[str, Any] = field(default_factory=dict)


@dataclass
class Global:
    """A function or class ("module name") that is not called."""

    name: str


@dataclass
class View:
    """A tensor with any declared shape and strides over the values of an array."""

    array: np.ndarray
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    claimed: int | None = None  # declared number of values in the storage


def _text(text):
    data = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def _contiguous(shape):
    return tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))


def encode(value, storages):
    """Returns the opcodes of a value. Arrays become tensors, whose values are appended to `storages`."""
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    if isinstance(value, Global):
        return b"c" + value.name.replace(" ", "\n").encode() + b"\n"
    if isinstance(value, tuple):
        return b"(" + b"".join(encode(item, storages) for item in value) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(encode(item, storages) for item in value) + b"e"
    if isinstance(value, dict):
        return b"}" + _entries(value, storages)
    if isinstance(value, Call):
        made = encode(Global(value.function), storages) + encode(value.args, storages) + b"R"
        made += _entries(value.entries, storages) if value.entries else b""
        return made + (encode(value.state, storages) + b"b" if value.state is not None else b"")
    if not isinstance(value, View):
        value = View(np.ascontiguousarray(value), value.shape, _contiguous(value.shape))
    place = next((index for index, known in enumerate(storages) if known is value.array), len(storages))
    storages += [value.array][: place == len(storages)]
    size = value.array.size if value.claimed is None else value.claimed
    kind = Global(f"torch {STORAGES[value.array.dtype.name]}")
    stored = encode(("storage", kind, str(place), "cpu", size), storages) + b"Q"
    rest = (value.offset, tuple(value.shape), tuple(value.strides), False, Call("collections OrderedDict"))
    arguments = b"(" + stored + b"".join(encode(item, storages) for item in rest) + b"t"
    return encode(Global("torch._utils _rebuild_tensor_v2"), storages) + arguments + b"R"


def _entries(entries, storages):
    return b"(" + b"".join(encode(key, storages) + encode(value, storages) for key, value in entries.items()) + b"u"


def save(value, path, pickle=None):
    """Writes a torch file of `value`, or with the opcodes `pickle`."""
    storages = []
    data = b"\x80\x02" + (encode(value, storages) + b"." if pickle is None else pickle)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        for index, array in enumerate(storages):
            archive.writestr(f"archive/data/{index}", array.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def save_legacy(value, path):
    """Writes a torch file in the format before torch 1.6."""
    storages = []
    data = encode(value, storages)
    heads = [LEGACY, 1001, {"protocol_version": 1001, "little_endian": True}]
    parts = [b"\x80\x02" + encode(head, storages) + b"." for head in heads]
    parts += [b"\x80\x02" + data + b".", b"\x80\x02" + encode([str(i) for i in range(len(storages))], storages) + b"."]
    parts += [struct.pack("<q", array.size) + array.tobytes() for array in storages]
    path.write_bytes(b"".join(parts))
    return path
