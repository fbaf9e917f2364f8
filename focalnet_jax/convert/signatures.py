"""What a file is, by its first bytes and not by its name."""

from __future__ import annotations

import zipfile
from pathlib import Path

from focalnet_jax.errors import UserError

SAFETENSORS, TORCH = "safetensors", "torch"
_LONGEST_HEADER = 100_000_000  # bytes, as the safetensors library has it
_STATE_DICT = "where it was made, torch.save(model.state_dict(), FILE) writes what is read here"
_UNPACK = "unpack it first"
# What people have under the names of weights: first bytes, what it is, what to do.
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights themselves", "fetch them with git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes weights", "expected weights of a PyTorch FocalNet"),
    (b"\x93NUMPY", "a NumPy array", "expected tensors by name"),
    (b"GGUF", "a GGUF file", "expected weights of a PyTorch FocalNet"),
    (b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (b"BZh", "compressed with bzip2", _UNPACK),
    (b"\xfd7zXZ\0", "compressed with xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"%PDF", "a PDF document", "expected weights"),
    (b"\x89PNG", "a PNG picture", "expected weights"),
    (b"\xff\xd8\xff", "a JPEG picture", "expected weights"),
)
_DOWNLOAD = "the download failed or needs a login: fetch the file itself"


def kind_of(path: Path) -> str:
    """`SAFETENSORS` or `TORCH`, by the content of the file at `path`.

    Raises:
      UserError: it is something else, and what.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            begin = file.read(4096)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not begin:
        raise UserError(f"{path} is empty; fetch it again")
    header = int.from_bytes(begin[:8], "little")
    if begin[8:9] == b"{" and 2 <= header <= _LONGEST_HEADER:
        if 8 + header > size:
            raise UserError(f"{path} is damaged or cut off: its header has {header} bytes, the file {size}")
        return SAFETENSORS
    if begin.startswith(b"PK\3\4"):
        _check_zip(path)
        return TORCH
    if begin[:1] == b"\x80":
        return TORCH
    what, todo = _other(begin, path)
    raise UserError(f"{path} is {what}; {todo}")


def _other(begin: bytes, path: Path) -> tuple[str, str]:
    """What a file is that holds no tensors for this package, and what to do."""
    for magic, what, todo in _OTHERS:
        if begin.startswith(magic):
            return what, todo
    text = begin.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<script")):
        return "a web page (HTML), not weights", _DOWNLOAD
    if text.startswith((b"<?xml", b"<error")):
        return "an XML document, such as the error of a server", _DOWNLOAD
    if text.startswith((b"{", b"[")):
        return "JSON text, not weights", "name the file of weights, or the index of its shards (*.index.json)"
    if begin[257:262] == b"ustar":
        return "a tar archive: files in it, or torch's format before version 0.2", _UNPACK
    if begin[4:8] == b"TFL3":
        return "a TensorFlow Lite model", "expected weights of a PyTorch FocalNet"
    if path.suffix == ".onnx" or (begin[:1] == b"\x08" and b"pytorch" in begin[:64]):
        return "an ONNX model, whose weights have lost their names", _STATE_DICT
    if path.suffix == ".pb" or begin.startswith(b"\x08\x01\x12"):
        return "a TensorFlow graph", "expected weights of a PyTorch FocalNet"
    if path.name.endswith((".index", ".data-00000-of-00001", ".meta")):
        return "a part of a TensorFlow checkpoint", "expected weights of a PyTorch FocalNet"
    if not any(begin):
        return "damaged: it begins with zeros", "fetch it again"
    if begin.startswith(b"PK"):
        return "damaged or no torch file: it is a zip without files, or cut off", "fetch it again"
    return (
        "damaged or no torch file: it begins neither as a zip nor as a pickle, nor as a safetensors file",
        "expected .safetensors, .pth or the like, an index of shards, or a directory",
    )


def _check_zip(path: Path) -> None:
    """Raises `UserError` if `torch.save` did not write the zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise UserError(f"{path} is damaged or cut off: it begins as a zip and has no directory at its end") from error
    inside = {name.split("/", 1)[-1] for name in names}
    if inside & {"constants.pkl"} or any(name.startswith("code/") for name in inside):
        what = "a TorchScript program (torch.jit.save)"
        todo = "in torch: torch.save(torch.jit.load(FILE).state_dict(), OUT)"
    elif "archive_format" in inside or {"serialized_exported_program.json", "models/model.json"} & inside:
        what = "an exported program (torch.export.save)"
        todo = "in torch: torch.save(torch.export.load(FILE).state_dict, OUT)"
    elif ".data/extern_modules" in inside:
        what, todo = "a torch.package", _STATE_DICT
    elif "data.pkl" in inside:
        return
    elif names and all(name.endswith(".npy") for name in names):
        what, todo = "a NumPy archive (.npz)", "expected tensors as .safetensors, or as torch.save writes them"
    elif "model.weights.h5" in inside:
        what, todo = "a Keras model", "expected weights of a PyTorch FocalNet"
    else:
        some = ", ".join(names[:3])[:100]
        what, todo = f"a zip of other files ({some or 'none'})", "unpack it and name the file of weights"
    raise UserError(f"{path} is {what}, not weights; {todo}")
