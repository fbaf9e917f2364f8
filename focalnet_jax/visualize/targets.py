"""The files that `python -m focalnet_jax.visualize` writes: their names, checks before drawing, and writing."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from focalnet_jax.errors import UserError
from focalnet_jax.system.files import check_result, write_result
from focalnet_jax.visualize.figures import as_png

KERNELS, FIELD = "kernels", "receptive_field"  # names of the model's figures


def check_sources(out: Path, stems: Mapping[str, str], sources: Sequence[Path]) -> None:
    """Raises `UserError` if an output would overwrite a source, or be written into a folder of frames."""
    read = {path.resolve() for path in sources}
    for name, suffix in stems.items():
        target = with_suffix(out / name, suffix)
        if target.resolve() in read:
            raise UserError(f"{target} is a source and would be overwritten: choose another --out")
    if out.resolve() in read:
        raise UserError(f"--out {out} is a folder of frames to draw: choose another")


def prepare_folder(out: Path, stems: Mapping[str, str], *, overwrite: bool) -> None:
    """Creates the folder; raises `UserError` if outputs, given by stem and suffix, already exist in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create --out {out}: {error.strerror}; choose another") from error
    for name, suffix in stems.items():
        for kind in (suffix, ".npz"):
            check_result(with_suffix(out / name, kind), overwrite=overwrite)


def save_figure(figure: Figure, arrays: Mapping[str, np.ndarray], target: Path) -> None:
    """Writes `target`.png with the figure and `target`.npz with its arrays."""
    write_result(with_suffix(target, ".png"), as_png(figure))
    save_arrays(arrays, target)


def save_arrays(arrays: Mapping[str, np.ndarray], target: Path) -> None:
    """Writes `target`.npz."""
    written = io.BytesIO()
    np.savez_compressed(written, **arrays)
    write_result(with_suffix(target, ".npz"), written.getvalue())


def with_suffix(target: Path, suffix: str) -> Path:
    """Returns the path with a suffix added."""
    return target.with_name(f"{target.name}{suffix}")  # a name may hold dots


def target_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Returns a unique name by file: the stem, else the file name, else the folder's and file's name."""
    for name_of in (
        lambda path: path.stem,
        lambda path: path.name,
        lambda path: f"{path.resolve().parent.name}_{path.name}",
    ):
        named = {path: name_of(path) for path in paths}
        if len({*named.values(), KERNELS, FIELD}) == len(named) + 2:
            return named
    twice = next(path for path in paths if list(named.values()).count(named[path]) > 1)
    raise UserError(
        f"two sources have the output name {named[twice]}, one of them {twice}: draw them into different folders"
    )
