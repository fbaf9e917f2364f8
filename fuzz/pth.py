"""Fuzzes torch files in both formats of `torch.save`."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.mutations import Rng, mutate_bytes, pick
from fuzz.runner import Family, WrongAnswerError
from fuzz.weights import FORMATS, File, arrays_of, compare, random_weights, read


def prepare(folder: Path) -> list[File]:
    """Returns files written by torch in both formats, with additional entries that trainers save."""
    import torch

    files = []
    for format in FORMATS:
        held = arrays_of(random_weights(format), format)
        state = {name: torch.from_numpy(np.array(array, order="C")) for name, array in held.items()}
        beside = {"epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "note": "a" * 50}
        for saved in (state, {"model": state, **beside}, OrderedDict(state_dict=OrderedDict(state), **beside)):
            for as_zip in (True, False):
                buffer = io.BytesIO()
                torch.save(saved, buffer, _use_new_zipfile_serialization=as_zip)
                files.append(File(format, buffer.getvalue(), held))
    return files


def case(files: list[File], rng: Rng, folder: Path) -> None:
    """Reads a changed file. Nothing in it may be executed."""
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
        found = read(path, file, whole=whole)
    finally:
        if marker.exists() or os.path.exists("ran"):
            raise WrongAnswerError("a program in the file was executed")
    held = file.arrays if whole else _loaded(path)
    if not held and change == 0:  # torch rejects the file, so the right values are unknown
        return
    # If torch rejects the file because of an additional entry, the right weights are those that were written.
    compare(found, file.format, held or file.arrays)


def _loaded(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors at any depth that torch reads, by name. The result is empty if torch rejects the file."""
    import torch

    held: dict[str, np.ndarray] = {}

    def add(value: Any) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                if isinstance(inner, torch.Tensor):
                    held[str(name)] = inner.detach().float().numpy()
                add(inner)

    with contextlib.suppress(Exception):  # torch raises exceptions of any type
        add(torch.load(path, map_location="cpu", weights_only=True))
    return held


class _Call:
    def __init__(self, function: Any, *arguments: Any):
        self._reduced = function, arguments

    def __reduce__(self) -> Any:
        return self._reduced


def _with_call(content: bytes, marker: Path, rng: Rng) -> bytes:
    """Returns a checkpoint whose pickle would run a program, instead of the weights or next to them."""
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
    """Returns a zip with the same members, written by Python's zipfile, and with a comment."""
    buffer = io.BytesIO(_rezip(content, {}))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = rng.bytes(int(rng.integers(50)))
    return buffer.getvalue()


def _zip_changed(content: bytes, rng: Rng) -> bytes:
    """Returns a zip with valid checksums whose members are changed, truncated, missing or compressed."""
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
    """Returns a pickle with opcodes removed, repeated or moved, or with changed arguments."""
    try:
        places = [place for _, _, place in pickletools.genops(content)]
    except (ValueError, OverflowError, struct.error):  # damaged, or with bytes after the pickle
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


FAMILY = Family("pth", 2000, prepare, case, seconds=60)
