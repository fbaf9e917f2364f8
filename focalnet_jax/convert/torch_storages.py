"""Reads the pickled value and the memory-mapped storages of a torch file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from focalnet_jax.convert.pickles import Name, read_pickle
from focalnet_jax.errors import UserError

_LEGACY = 0x1950A86A20F9469CFC6C  # the first pickle of a file in torch's format before 1.6
_STORAGES = {
    **{"Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64"},
    **{"Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool"},
    **{"ComplexFloat": "complex64", "ComplexDouble": "complex128", "Untyped": "uint8"},
    # storages of quantized tensors, which are not read
    **{"QInt8": "int8", "QUInt8": "uint8", "QInt32": "int32", "QUInt4x2": "uint8", "QUInt2x4": "uint8"},
}


def storage_dtype(kind: Any) -> np.dtype | None:
    """Returns the dtype of a storage class such as `torch.FloatStorage`, or None for other names."""
    text = kind.text.rsplit(".", 1)[-1] if isinstance(kind, Name) else ""
    return numpy_dtype(_STORAGES.get(text.removesuffix("Storage"), ""))


def numpy_dtype(name: str) -> np.dtype | None:
    """Returns the NumPy dtype with the name of a torch dtype, or None if NumPy has no such dtype."""
    try:
        return np.dtype(getattr(ml_dtypes, name, name)) if name.isidentifier() else None
    except TypeError:
        return None


class ZipStorages:
    """The pickled value and the storages of a torch zip file."""

    def __init__(self, path: Path, mapped: np.ndarray):
        self._path, self._mapped, self._whole = path, mapped, set[str]()
        self._archive = zipfile.ZipFile(path)
        (pickle,) = [name for name in self._archive.namelist() if name.split("/", 1)[-1] == "data.pkl"]
        self._root = pickle.removesuffix("data.pkl")
        if self._root + "byteorder" in self._archive.namelist() and self._record("byteorder").tobytes() != b"little":
            raise UserError(f"{path} was written by a big-endian machine; expected little-endian numbers")
        self.value = read_pickle(_Bytes(self._record("data.pkl")))

    def size(self, key: str) -> int:
        """Returns the number of bytes of a storage, or 0 if the storage is missing."""
        name = f"{self._root}data/{key}"
        return self._archive.getinfo(name).file_size if name in self._archive.NameToInfo else 0

    def bytes(self, key: str) -> np.ndarray:
        """Returns the bytes of a storage. Raises `UserError` if the file has a checksum and it is wrong."""
        return self._record(f"data/{key}")

    def _record(self, name: str) -> np.ndarray:
        info = self._archive.getinfo(self._root + name)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise UserError(
                f"{self._path}: its records are compressed or encrypted; unzip it and zip it without compression"
            )
        header = self._mapped[info.header_offset : info.header_offset + 30].tobytes()
        start = (
            info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:], "little")
        )
        content = self._mapped[start : start + info.file_size]
        # A checksum of 0 means that torch.serialization.set_crc32_options(False) was used.
        if info.CRC and name not in self._whole and zlib.crc32(content) != info.CRC:
            raise UserError(f"{self._path} is damaged: the checksum of its record {name[:100]} is wrong")
        if header[:4] != b"PK\3\4" or len(content) != info.file_size:
            raise UserError(f"{self._path} is damaged or truncated: its record {name[:100]} is missing")
        self._whole.add(name)
        return content


class LegacyStorages:
    """The pickled value and the storages of a file in torch's format before 1.6. A plain pickle has no storages."""

    def __init__(self, path: Path, mapped: np.ndarray):
        self._mapped, self._places = mapped, dict[str, tuple[int, int]]()
        file = _Bytes(mapped)
        self.value = read_pickle(file)
        if self.value != _LEGACY:
            return
        read_pickle(file)  # the version of the format, 1001
        system = read_pickle(file)
        if isinstance(system, dict) and system.get("little_endian") is False:
            raise UserError(f"{path} was written by a big-endian machine; expected little-endian numbers")
        referred: list[tuple[Any, ...]] = []
        self.value = read_pickle(file, referred)
        kinds = {str(identity[2]): storage_dtype(identity[1]) for identity in referred if len(identity) > 2}
        for key in read_pickle(file):
            count = int.from_bytes(file.read(8), "little")
            start, size = file.tell(), count * kinds[str(key)].itemsize
            if start + size > len(mapped):
                raise UserError(f"{path} is damaged or truncated: it ends before its storage {str(key)[:100]}")
            self._places[str(key)] = start, size
            file.seek(start + size)

    def size(self, key: str) -> int:
        """Returns the number of bytes of a storage, or 0 if the storage is missing."""
        return self._places.get(key, (0, 0))[1]

    def bytes(self, key: str) -> np.ndarray:
        """Returns the bytes of a storage."""
        start, size = self._places[key]
        return self._mapped[start : start + size]


class _Bytes:
    """A read-only file over memory-mapped bytes, for reading pickles."""

    def __init__(self, content: np.ndarray):
        self._content, self._position = content, 0

    def read(self, count: int) -> bytes:
        """Returns the next `count` bytes, or fewer at the end."""
        piece = self._content[self._position : self._position + count].tobytes()
        self._position += len(piece)
        return piece

    def readline(self) -> bytes:
        """Returns the bytes up to and including the next newline.

        Raises:
          ValueError: there is no newline in the next 100,000 bytes; lines are names or numbers and thus shorter.
        """
        piece = self._content[self._position : self._position + 100_000].tobytes()
        line = piece[: piece.index(b"\n") + 1]
        self._position += len(line)
        return line

    def tell(self) -> int:
        """Returns the current position in bytes."""
        return self._position

    def seek(self, position: int) -> None:
        """Sets the current position in bytes."""
        self._position = position
