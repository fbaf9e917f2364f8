"""Reads and writes weights in torch and safetensors files. Files in several shards are only read.

The type of a file that is read depends on its content, not on its name. Nothing in a file is executed, see
`pickles.py`. Inputs are not modified, and an output file is renamed to its final name only when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from focalnet_jax.checkpoint.integrity import MANIFEST
from focalnet_jax.checkpoint.steps import FOLDER
from focalnet_jax.convert.addresses import refuse_address
from focalnet_jax.convert.class_names import class_names_in_metadata
from focalnet_jax.convert.directories import HUGGINGFACE_FILES, weights_in
from focalnet_jax.convert.signatures import SAFETENSORS, kind_of
from focalnet_jax.convert.tensors import Tensors
from focalnet_jax.convert.torch_files import import_torch, read_torch_file, to_torch
from focalnet_jax.errors import UserError
from focalnet_jax.hub.download import local_path
from focalnet_jax.storage.address import AnyPath, is_bucket, refuse_mistyped, to_path
from focalnet_jax.storage.failures import StorageError, unreadable
from focalnet_jax.storage.files import answering, digest, exists, is_folder, requests, sizes

# Keys in the metadata of a .safetensors file. The values are JSON.
METADATA = "focalnet_jax"  # preprocessing and class names
OPTIONS = "focalnet_jax.options"  # model options that neither shapes nor a variant determine
HEADS = "focalnet_jax.heads"  # options of UPerNet's heads that shapes do not determine
PICKLES = (".pth", ".pt", ".bin", ".tar")  # suffixes written as torch files; reading ignores suffixes
_SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def is_checkpoint(path: str | Path) -> bool:
    """Returns whether `path` may be a checkpoint of this package.

    This is the case for a local directory without a weights file, and for a folder in a bucket with a checkpoint's
    files.

    Raises:
      UserError: the directory cannot be read or has an unsupported layout or format, or `path` is a URL or hub name.
        For an address `hf://`, also the errors of `hub.download.local_path`.
      RunFailedError: a bucket does not answer.
    """
    refuse_mistyped(path)
    if is_bucket(path):
        with answering(path):
            return any(exists(to_path(path) / name) for name in (MANIFEST, FOLDER, "params"))
    path = Path(local_path(path))
    try:
        is_directory = path.is_dir()
        if not path.exists():
            refuse_address(str(path))
    except OSError as error:
        raise UserError(f"cannot read {str(path)[:100]}: {error.strerror}") from error
    return is_directory and weights_in(path) is None


def weight_files(path: Path) -> list[Path]:
    """Returns the weights files at `path`: the file itself, the shards of an index, or the files in a directory.

    Raises:
      UserError: `path` does not exist or has no weights, or shards are missing.
    """
    if path.is_dir():
        found = weights_in(path)
        if found is None:
            raise UserError(f"{path} has no weights; expected a checkpoint or one of {', '.join(HUGGINGFACE_FILES)}")
        return weight_files(found)
    if not path.is_file():
        raise UserError(f"there is no checkpoint or weights file at {path}")
    if path.name.endswith(".index.json"):
        present = {entry.name for entry in path.parent.iterdir() if entry.is_file()}
        shards = sorted(set(_weight_map(path).values()))
        absent = [name for name in shards if name not in present]
        if absent:
            raise UserError(
                f"{path} lists the shard {absent[0][:100]}, which is missing: copy all shards into {path.parent}"
            )
        return [path.parent / name for name in shards]
    return [path]


def read_tensors(path: Path) -> Tensors:
    """Returns all tensors in the weights files at `path`.

    Raises:
      UserError: a file is missing, damaged or not a weights file, or shards do not match their index.
    """
    files = weight_files(path)
    parts = [_read_safetensors(file) if kind_of(file) == SAFETENSORS else read_torch_file(file) for file in files]
    if len(parts) == 1:
        return parts[0]
    owner = {name: part for part in parts for name in part}
    holders = {name: file.name for file, part in zip(files, parts, strict=True) for name in part}
    index = weights_in(path) if path.is_dir() else path
    differing = sorted({name for name, _ in holders.items() ^ _weight_map(index).items()})
    if differing or len(owner) != sum(map(len, parts)):
        raise UserError(
            f"{index} and its shards disagree on {', '.join(differing[:5]) or 'tensors stored twice'}: download or "
            "copy all of them again"
        )
    return Tensors(
        {name: part.shapes[name] for name, part in owner.items()},
        {name: part.dtypes[name] for name, part in owner.items()},
        lambda name: owner[name][name],
        problems={name: problem for part in parts for name, problem in part.problems.items()},
        others={name: what for part in parts for name, what in part.others.items()},
        class_lists={place: names for part in parts for place, names in part.class_lists.items()},
        palettes={place: colours for part in parts for place, colours in part.palettes.items()},
    )


def _weight_map(index: Path) -> dict[str, str]:
    """Returns the file name of each tensor's shard, by tensor name, from an index of shards."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise UserError(f"{index} is not an index of shards: it has no weight_map from tensors to files")
    return shards


def _read_safetensors(path: Path) -> Tensors:
    import safetensors

    try:
        file = safetensors.safe_open(path, framework="numpy")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged, truncated or not a safetensors file: {error}") from error
    dtypes = {name: _SAFETENSORS_DTYPES.get(part.get_dtype(), part.get_dtype()) for name, part in slices.items()}
    shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    return Tensors(shapes, dtypes, file.get_tensor, class_lists=class_names_in_metadata(file.metadata() or {}))


def read_metadata_of(path: Path) -> dict[str, str]:
    """Returns the metadata of the safetensors file at `path`. Returns {} for shards and other formats."""
    import safetensors

    files = weight_files(path)
    if len(files) != 1 or kind_of(files[0]) != SAFETENSORS:
        return {}
    with safetensors.safe_open(files[0], framework="numpy") as file:
        return file.metadata() or {}


def read_json(path: AnyPath) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
      UserError: the file is damaged or contains a different JSON value.
      RunFailedError: a bucket does not answer.
    """
    try:
        with requests(path):
            text = path.read_bytes()
        content = json.loads(text)
    except StorageError as error:
        raise unreadable(path, error) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: expected a JSON object")
    return content


def write_tensors(
    path: Path, tensors: dict[str, np.ndarray], *, nested: bool, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors to a `.safetensors` file or, with any other suffix, a torch file.

    Args:
      path: the output file, whose suffix selects the format.
      tensors: arrays by name.
      nested: whether to store the tensors of a torch file under the key "model".
      metadata: strings by key, for `.safetensors` only.

    Raises:
      OSError: the disk is full or the file cannot be written.
      UserError: a torch file is requested and torch is not installed.
    """
    import safetensors.numpy

    try:
        if path.suffix == ".safetensors":
            path.touch()
            mode = path.stat().st_mode
            safetensors.numpy.save_file(tensors, path, metadata={"format": "pt", **(metadata or {})})
            path.chmod(mode)  # the library lets only the owner read the file
            _sort_metadata(path)
            return
        torch = import_torch(path)
        state = {name: to_torch(torch, array) for name, array in tensors.items()}
        torch.save({"model": state} if nested else state, path)
    except (safetensors.SafetensorError, RuntimeError) as error:  # the libraries raise these if the disk is full
        raise OSError(str(error).splitlines()[0]) from error


def _sort_metadata(path: Path) -> None:
    """Sorts the metadata, which the library writes in random order, so that equal weights give equal bytes."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length)
        if len(text) == length:
            file.seek(8)
            file.write(text)


@contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Context manager that yields a temporary path, then renames it to `path` or, after an error, removes it.

    Unlike `system.files.write_whole`, it also supports directories and libraries that write to a path themselves.

    Raises:
      UserError: `path` exists or cannot be written.
    """
    if os.path.lexists(path) or not path.name:
        raise UserError(f"{path} already exists; nothing was written: remove it or give another path")
    partial = path.with_name(f".partial-{os.getpid()}{path.suffix}")
    made: list[Path] = []
    try:
        made = [folder for folder in path.parents if not folder.exists()]  # the innermost first
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
        made = []
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            _remove(partial)
            for folder in made:
                folder.rmdir()


def _remove(path: Path) -> None:
    """Removes a file or directory, retrying while a library's threads still write to it after a failure."""
    for _ in range(50):
        if not path.exists():
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
        time.sleep(0.1 if path.exists() else 0)
    raise OSError(f"cannot remove {path}")


def sha256(path: AnyPath) -> str:
    """Returns the SHA-256 of a file in hexadecimal.

    For a directory, returns the SHA-256 of the output of `sha256sum` for all files in the directory, sorted by path.
    """
    if is_folder(path):
        lines = (f"{digest(path / name)}  {name}\n" for name in sorted(sizes(path)))
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    return digest(path)
