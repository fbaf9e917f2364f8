"""The files that `python -m focalnet_jax.visualize` writes: their names, checks before drawing, and writing."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from focalnet_jax.errors import UserError
from focalnet_jax.system.files import check_not_sources, check_result, output_file_names, write_result
from focalnet_jax.visualize.figures import as_png

KERNELS, FIELD = "kernels", "receptive_field"  # names of the model's figures


def check_sources(out: Path, stems: Mapping[str, str], sources: Sequence[Path]) -> None:
    """Raises `UserError` if an output would overwrite a source, or be written into a folder of frames."""
    check_not_sources([with_suffix(out / name, suffix) for name, suffix in stems.items()], sources)
    if out.resolve() in {path.resolve() for path in sources}:
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
    """Returns a unique name by file, see `output_file_names`; none is that of a figure of the model."""
    return output_file_names(paths, taken=(KERNELS, FIELD))
