"""Recognises the type of a weights file by its first bytes, not its name."""

from __future__ import annotations

import zipfile
from pathlib import Path

from focalnet_jax.errors import UserError

SAFETENSORS, TORCH = "safetensors", "torch"
_LONGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors library
_STATE_DICT = "save the weights in PyTorch: torch.save(model.state_dict(), FILE)"
_UNPACK = "unpack it first"
# Files that are often mistaken for weights: first bytes, type, what to do.
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights themselves", "fetch them with git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras weights", "expected weights of a PyTorch FocalNet"),
    (b"\x93NUMPY", "a NumPy array", "expected tensors by name"),
    (b"GGUF", "a GGUF file", "expected weights of a PyTorch FocalNet"),
    (b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (b"BZh", "compressed with bzip2", _UNPACK),
    (b"\xfd7zXZ\0", "compressed with xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"%PDF", "a PDF document", "expected weights"),
    (b"\x89PNG", "a PNG image", "expected weights"),
    (b"\xff\xd8\xff", "a JPEG image", "expected weights"),
)
_DOWNLOAD = "the download failed or needs a login: download the file itself"


def kind_of(path: Path) -> str:
    """Returns the type of a weights file by its content, `SAFETENSORS` or `TORCH`.

    Raises:
      UserError: the file is unreadable, empty, truncated or of a different type. The message names the type.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            begin = file.read(4096)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not begin:
        raise UserError(f"{path} is empty; download it again")
    header = int.from_bytes(begin[:8], "little")
    if begin[8:9] == b"{" and 2 <= header <= _LONGEST_HEADER:
        if 8 + header > size:
            raise UserError(f"{path} is damaged or truncated: its header has {header} bytes, the file {size}")
        return SAFETENSORS
    if begin.startswith(b"PK\3\4"):
        _check_zip(path)
        return TORCH
    if begin[:1] == b"\x80":
        return TORCH
    kind, remedy = _other(begin, path)
    raise UserError(f"{path} is {kind}; {remedy}")


def _other(begin: bytes, path: Path) -> tuple[str, str]:
    """Returns the type of a file without readable tensors, and what to do."""
    for magic, kind, remedy in _OTHERS:
        if begin.startswith(magic):
            return kind, remedy
    text = begin.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<script")):
        return "a web page (HTML), not weights", _DOWNLOAD
    if text.startswith((b"<?xml", b"<error")):
        return "an XML document, such as the error of a server", _DOWNLOAD
    if text.startswith((b"{", b"[")):
        return "JSON text, not weights", "give the weights file, or the index of its shards (*.index.json)"
    if begin[257:262] == b"ustar":
        return "a tar archive of files, or torch's format before version 0.2", _UNPACK
    if begin[4:8] == b"TFL3":
        return "a TensorFlow Lite model", "expected weights of a PyTorch FocalNet"
    if path.suffix == ".onnx" or (begin[:1] == b"\x08" and b"pytorch" in begin[:64]):
        return "an ONNX model, which does not keep the names of the weights", _STATE_DICT
    if path.suffix == ".pb" or begin.startswith(b"\x08\x01\x12"):
        return "a TensorFlow graph", "expected weights of a PyTorch FocalNet"
    if path.name.endswith((".index", ".data-00000-of-00001", ".meta")):
        return "a part of a TensorFlow checkpoint", "expected weights of a PyTorch FocalNet"
    if not any(begin):
        return "damaged: it begins with zeros", "download it again"
    if begin.startswith(b"PK"):
        return "damaged or not a torch file: it is an empty or truncated zip", "download it again"
    return (
        "damaged or not a torch file: it does not begin like a zip, a pickle or a safetensors file",
        "expected .safetensors, .pth or similar, an index of shards, or a directory",
    )


def _check_zip(path: Path) -> None:
    """Raises `UserError` if the zip was not written by `torch.save`."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise UserError(f"{path} is damaged or truncated: it begins like a zip but has no file list") from error
    inside = {name.split("/", 1)[-1] for name in names}
    if inside & {"constants.pkl"} or any(name.startswith("code/") for name in inside):
        kind = "a TorchScript program (torch.jit.save)"
        remedy = "in torch: torch.save(torch.jit.load(FILE).state_dict(), OUT)"
    elif "archive_format" in inside or {"serialized_exported_program.json", "models/model.json"} & inside:
        kind = "an exported program (torch.export.save)"
        remedy = "in torch: torch.save(torch.export.load(FILE).state_dict, OUT)"
    elif ".data/extern_modules" in inside:
        kind, remedy = "a torch.package", _STATE_DICT
    elif "data.pkl" in inside:
        return
    elif names and all(name.endswith(".npy") for name in names):
        kind, remedy = "a NumPy archive (.npz)", "expected .safetensors or a file of torch.save"
    elif "model.weights.h5" in inside:
        kind, remedy = "a Keras model", "expected weights of a PyTorch FocalNet"
    else:
        some = ", ".join(names[:3])[:100]
        kind, remedy = f"a zip of other files ({some or 'none'})", "unpack it and give the weights file"
    raise UserError(f"{path} is {kind}, not weights; {remedy}")
