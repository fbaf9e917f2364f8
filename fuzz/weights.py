"""Weight files: safetensors, also in shards, and torch pickles, beside the arrays that were written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from focalnet_jax.convert.mapping import abstract_params, to_theirs
from focalnet_jax.convert.weights import Weights, read_weights
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig
from fuzz.mutations import Rng, dump_json, mutate_bytes, mutate_json, pick
from fuzz.runner import WrongAnswerError

FORMATS = ("timm", "microsoft", "huggingface")
OPTIONS = {"use_postln": False, "normalize_modulator": False}


@dataclass(frozen=True)
class File:
    """A whole file of weights: its bytes and the arrays it holds by their names there."""

    format: str
    content: bytes
    arrays: dict[str, np.ndarray]


def random_weights() -> Weights:
    """Returns random parameters of a small model."""
    config = FocalNetConfig(embed_dim=8, depths=(1, 1), num_classes=5)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), abstract_params(config))
    return Weights(params, config, None, "orbax", "float32", ())


def arrays_of(weights: Weights, format: str) -> dict[str, np.ndarray]:
    """Returns the parameters as a file of a format holds them."""
    return dict(to_theirs(weights.params, weights.config, format))


def prepare_safetensors(_: Path) -> list[File]:
    """Returns a file of each format."""
    import safetensors.numpy

    weights = random_weights()
    files = []
    for format in FORMATS:
        held = {name: np.ascontiguousarray(array) for name, array in arrays_of(weights, format).items()}
        files.append(File(format, safetensors.numpy.save(held, {"format": "pt"}), held))
    return files


def split_safetensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Returns the header of a safetensors file and its data."""
    (size,) = struct.unpack_from("<Q", content)
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def join_safetensors(header: bytes, data: bytes) -> bytes:
    """Returns a file of a header and data."""
    return struct.pack("<Q", len(header)) + header + data


def case_safetensors(files: list[File], rng: Rng, folder: Path) -> None:
    """Reads a changed file, whole or in shards."""
    file = pick(rng, files)
    match int(rng.integers(5)):
        case 0:
            read_as(file, folder, mutate_bytes(file.content, rng))
        case 1:
            header, data = split_safetensors(file.content)
            read_as(file, folder, join_safetensors(dump_json(mutate_json(header, rng), rng), data))
        case 2:
            read_as(file, folder, _changed_entries(file.content, rng))
        case 3:
            read_as(file, folder, _laid_out_anew(file, rng), whole=True)
        case _:
            _read_shards(file, rng, folder)


def read_as(file: File, folder: Path, content: bytes, *, suffix: str = ".safetensors", whole: bool = False) -> None:
    """Reads bytes as a file; its parameters must be the arrays that an independent reader finds."""
    path = folder / f"weights{suffix}"
    path.write_bytes(content)
    try:
        found = read_weights(path, options=OPTIONS)
    except UserError as error:
        if whole:
            raise WrongAnswerError(f"{file.format} is whole and refused: {error}") from error
        raise
    held = file.arrays if whole or suffix != ".safetensors" else _held(content)
    compare(found, file.format, held)


def compare(found: Weights, format: str, held: Mapping[str, np.ndarray]) -> None:
    """Raises `WrongAnswerError` where parameters are not the arrays a file holds."""
    if found.format != format:
        raise WrongAnswerError(f"{format} is taken for {found.format}")
    for name, array in arrays_of(found, format).items():
        theirs = held.get(name)
        if theirs is None:
            theirs = next((each for other, each in held.items() if other.endswith(name) or name.endswith(other)), None)
        if theirs is None or not np.array_equal(np.asarray(theirs, np.float32), array, equal_nan=True):
            raise WrongAnswerError(f"{name} is {'not in the file' if theirs is None else 'another array'}")


def _held(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, by its specification."""
    header, data = split_safetensors(content)
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
    """Types, shapes, places and names of tensors changed so that the header stays one."""
    header, data = split_safetensors(content)
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
    return join_safetensors(json.dumps(header).encode(), data)


def _laid_out_anew(file: File, rng: Rng) -> bytes:
    """The same arrays in another order, with other metadata and white space."""
    header, data, place = {}, b"", 0
    old, stored = split_safetensors(file.content)
    for name in rng.permutation(sorted(file.arrays)):
        begin, end = old[name]["data_offsets"]
        data += stored[begin:end]
        header[str(name)] = {**old[name], "data_offsets": [place, place + end - begin]}
        place += end - begin
    if rng.random() < 0.5:
        header = {"__metadata__": pick(rng, ({}, {"x": "y" * 99}, {"format": "np"})), **header}
    return join_safetensors(json.dumps(header).encode() + b" " * int(rng.integers(40)), data)


def _read_shards(file: File, rng: Rng, folder: Path) -> None:
    """Two shards and their index, of which something is changed."""
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
    found = read_weights(folder / "model.safetensors.index.json", options=OPTIONS)
    held = {}
    for shard in shards:
        held |= _held((folder / shard).read_bytes())
    compare(found, file.format, held)


def prepare_pth(folder: Path) -> list[File]:
    """Returns files that torch wrote, of both of its formats, with what trainers save beside weights."""
    import torch

    weights, files = random_weights(), []
    for format in FORMATS:
        held = arrays_of(weights, format)
        state = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in held.items()}
        beside = {"epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "note": "a" * 50}
        for saved in (state, {"model": state, **beside}, OrderedDict(state_dict=OrderedDict(state), **beside)):
            for as_zip in (True, False):
                buffer = io.BytesIO()
                torch.save(saved, buffer, _use_new_zipfile_serialization=as_zip)
                files.append(File(format, buffer.getvalue(), held))
    return files


def case_pth(files: list[File], rng: Rng, folder: Path) -> None:
    """Reads a changed file; nothing in it may run."""
    file = pick(rng, files)
    is_zip = file.content.startswith(b"PK")
    marker = folder / "ran"
    change = int(rng.integers(5))
    whole = False
    if change == 0:
        content = mutate_bytes(file.content, rng)
    elif change == 1:
        content = _with_call(file.content, marker, rng)
    elif change == 2 and is_zip:
        content, whole = _zipped_anew(file.content, rng), True
    elif is_zip:
        content = _zip_changed(file.content, rng)
    else:
        content = _pickle_changed(file.content, rng)
    path = folder / f"weights{pick(rng, ('.pth', '.pt', '.bin', '.pth.tar'))}"
    path.write_bytes(content)
    try:
        found = read_weights(path, options=OPTIONS)
    except UserError as error:
        if whole:
            raise WrongAnswerError(f"{file.format} is whole and refused: {error}") from error
        raise
    finally:
        if marker.exists() or os.path.exists("ran"):
            raise WrongAnswerError("a program of the file ran")
    held = file.arrays if whole else _loaded(path)
    if not held and change == 0:  # torch refuses it, and nobody else knows what the changed bytes mean
        return
    # What torch refuses for the sake of something beside the weights has those that were written.
    compare(found, file.format, held or file.arrays)


def _loaded(path: Path) -> dict[str, np.ndarray]:
    """What torch itself finds: tensors by name, wherever they are nested; nothing where it refuses the file."""
    import torch

    held: dict[str, np.ndarray] = {}

    def add(value: Any) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                if isinstance(inner, torch.Tensor):
                    held[str(name)] = inner.detach().float().numpy()
                add(inner)

    with contextlib.suppress(Exception):  # of all kinds
        add(torch.load(path, map_location="cpu", weights_only=True))
    return held


class _Call:
    def __init__(self, function: Any, *arguments: Any):
        self._reduced = function, arguments

    def __reduce__(self) -> Any:
        return self._reduced


def _with_call(content: bytes, marker: Path, rng: Rng) -> bytes:
    """A pickle that would run a program, where a checkpoint has its weights or beside them."""
    call = pick(
        rng,
        (
            _Call(os.system, f"touch {marker}"),
            _Call(eval, f"open({str(marker)!r}, 'w')"),
            _Call(exec, f"open({str(marker)!r}, 'w')"),
            _Call(getattr, os, "system"),
            _Call(Path.touch, marker),
        ),
    )
    try:
        harmful = pickle.dumps(pick(rng, (call, {"model": call}, {"state_dict": {}, "args": call}, [call])), protocol=2)
    except (pickle.PicklingError, TypeError):
        harmful = pickle.dumps(_Call(os.system, f"touch {marker}"), protocol=2)
    if content.startswith(b"PK"):
        return _rezip(content, {"data.pkl": harmful})
    return pick(rng, (harmful, harmful + content, content[: content.find(b".") + 1] + harmful))


def _members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _rezip(content: bytes, changed: Mapping[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in _members(content).items():
            new = changed.get(name.partition("/")[2], data)
            if new is not None:
                archive.writestr(name, new)
    return buffer.getvalue()


def _zipped_anew(content: bytes, rng: Rng) -> bytes:
    """The same members in a zip that another library wrote, with a comment."""
    buffer = io.BytesIO(_rezip(content, {}))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = rng.bytes(int(rng.integers(50)))
    return buffer.getvalue()


def _zip_changed(content: bytes, rng: Rng) -> bytes:
    """Members changed, cut, missing or compressed, with checksums that fit."""
    members = {name.partition("/")[2]: data for name, data in _members(content).items()}
    name = pick(rng, members) if rng.random() < 0.5 else "data.pkl"
    match int(rng.integers(5)):
        case 0:
            return _rezip(content, {name: None})
        case 1:
            return _rezip(content, {name: members[name][: int(rng.integers(len(members[name]) + 1))]})
        case 2:
            return _rezip(content, {"data.pkl": _pickle_changed(members["data.pkl"], rng)})
        case 3:
            return _rezip(content, {}, zipfile.ZIP_DEFLATED)
    return _rezip(content, {name: mutate_bytes(members[name], rng, 1) if members[name] else b"x"})


def _pickle_changed(content: bytes, rng: Rng) -> bytes:
    """Opcodes removed, repeated, moved or with another argument."""
    try:
        places = [place for _, _, place in pickletools.genops(content)]
    except Exception:  # bytes that follow the pickle, or that are damaged
        return mutate_bytes(content, rng, 1)
    parts = [content[begin:end] for begin, end in zip(places, [*places[1:], None], strict=True)]
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(len(parts)))
        match int(rng.integers(4)):
            case 0:
                del parts[place]
            case 1:
                parts.insert(int(rng.integers(len(parts))), parts[place])
            case 2:
                parts.insert(int(rng.integers(len(parts))), parts.pop(place))
            case _:
                parts[place] = mutate_bytes(parts[place], rng, 1) or b"."
        if not parts:
            break
    return b"".join(parts)
