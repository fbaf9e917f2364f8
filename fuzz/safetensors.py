"""Fuzzes safetensors files, single and sharded."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.mutations import Rng, dump_json, mutate_bytes, mutate_json, pick
from fuzz.runner import Family, WrongAnswerError
from fuzz.weights import FORMATS, File, arrays_of, compare, random_weights, read


def prepare(_: Path) -> list[File]:
    """Returns a safetensors file for each naming format."""
    import safetensors.numpy

    files = []
    for format in FORMATS:
        arrays = arrays_of(random_weights(format), format)
        held = {name: np.array(array, order="C") for name, array in arrays.items()}
        files.append(File(format, safetensors.numpy.save(held, {"format": "pt"}), held))
    return files


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Returns the header and the data of a safetensors file."""
    (size,) = struct.unpack_from("<Q", content)
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def _join(header: bytes, data: bytes) -> bytes:
    """Returns a safetensors file with the given header and data."""
    return struct.pack("<Q", len(header)) + header + data


def case(files: list[File], rng: Rng, folder: Path) -> None:
    """Reads a changed file, single or sharded."""
    file = pick(rng, files)
    match int(rng.integers(5)):
        case 0:
            _read_as(file, folder, mutate_bytes(file.content, rng))
        case 1:
            header, data = _split(file.content)
            _read_as(file, folder, _join(dump_json(mutate_json(header, rng), rng), data))
        case 2:
            _read_as(file, folder, _changed_entries(file.content, rng))
        case 3:
            _read_as(file, folder, _laid_out_anew(file, rng), whole=True)
        case _:
            _read_shards(file, rng, folder)


def _read_as(file: File, folder: Path, content: bytes, *, whole: bool = False) -> None:
    """Reads a file. The parameters must equal the arrays that an independent reader finds."""
    path = folder / "weights.safetensors"
    path.write_bytes(content)
    found = read(path, file, whole=whole)
    compare(found, file.format, file.arrays if whole else _held(content))


def _held(content: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays of a safetensors file, read according to the specification of the format."""
    header, data = _split(content)
    header.pop("__metadata__", None)
    held = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        raw = data[begin:end]
        match entry["dtype"]:
            case "F32" | "F16" | "F64":
                array = np.frombuffer(raw, f"<f{int(entry['dtype'][1:]) // 8}")
            case "BF16":
                array = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
            case dtype:
                raise WrongAnswerError(f"{name} of {dtype} is read")
        held[name] = array.reshape(entry["shape"])
    return held


def _changed_entries(content: bytes, rng: Rng) -> bytes:
    """Returns a file with changed dtypes, shapes, offsets or names, but a valid JSON header."""
    header, data = _split(content)
    names = [name for name in header if name != "__metadata__"]
    for _ in range(int(rng.integers(1, 4))):
        name, other = pick(rng, names), pick(rng, names)
        if name not in header or other not in header:
            continue
        entry = header[name]
        match int(rng.integers(8)):
            case 0:
                entry["dtype"] = pick(rng, ("F16", "BF16", "F64", "I32", "U8", "BOOL", "F8_E4M3", "I64"))
            case 1:
                shape = entry["shape"]
                entry["shape"] = pick(rng, (shape[::-1], [*shape, 1], [0], [], [2**62, 4], shape[1:]))
            case 2:
                entry["data_offsets"] = list(header[other]["data_offsets"])
            case 3:
                entry["data_offsets"] = [each + pick(rng, (-4, 4, 2**31, 2**63)) for each in entry["data_offsets"]]
            case 4:
                header[pick(rng, (other, f"module.{name}", f"{name}.", name.replace(".", "_"), ""))] = header.pop(name)
            case 5:
                header[name], header[other] = header[other], entry
            case 6:
                header["__metadata__"] = pick(rng, ({"format": "tf"}, {"a": "b" * 9999}, {"a": 1}, None, []))
            case _:
                data = data[: int(rng.integers(len(data)))] if rng.random() < 0.3 else data + b"\0" * 8
    return _join(json.dumps(header).encode(), data)


def _laid_out_anew(file: File, rng: Rng) -> bytes:
    """Returns a file with the same arrays in a different order, with different metadata and white space."""
    header, data, place = {}, b"", 0
    old, stored = _split(file.content)
    for name in rng.permutation(sorted(file.arrays)):
        begin, end = old[name]["data_offsets"]
        data += stored[begin:end]
        header[str(name)] = {**old[name], "data_offsets": [place, place + end - begin]}
        place += end - begin
    if rng.random() < 0.5:
        header = {"__metadata__": pick(rng, ({}, {"x": "y" * 99}, {"format": "np"})), **header}
    return _join(json.dumps(header).encode() + b" " * int(rng.integers(40)), data)


def _read_shards(file: File, rng: Rng, folder: Path) -> None:
    """Reads two shards with their index; one of the three files is changed."""
    import safetensors.numpy

    names = list(file.arrays)
    half = len(names) // 2
    shards = {"model-00001-of-00002.safetensors": names[:half], "model-00002-of-00002.safetensors": names[half:]}
    for shard, held in shards.items():
        content = safetensors.numpy.save({name: file.arrays[name] for name in held})
        (folder / shard).write_bytes(mutate_bytes(content, rng, 1) if rng.random() < 0.1 else content)
    index: Any = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    changed = mutate_json(index, rng) if rng.random() < 0.8 else index
    (folder / "model.safetensors.index.json").write_bytes(dump_json(changed, rng))
    if rng.random() < 0.2:
        (folder / pick(rng, shards)).unlink()
    found = read(folder / "model.safetensors.index.json", file)
    held = {}
    for shard in shards:
        held |= _held((folder / shard).read_bytes())
    compare(found, file.format, held)


FAMILY = Family("safetensors", 3000, prepare, case, seconds=60)
