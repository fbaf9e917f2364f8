"""Names, checks and writes the output files of `python -m focalnet_jax.visualize`."""

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
    """Checks that outputs do not overwrite sources.

    Args:
      out: folder of the outputs.
      stems: names of the outputs without suffix, with the suffix of each.
      sources: files and folders of frames to draw.

    Raises:
      UserError: an output would overwrite a source, or `out` is a folder of frames.
    """
    check_not_sources([with_suffix(out / name, suffix) for name, suffix in stems.items()], sources)
    if out.resolve() in {path.resolve() for path in sources}:
        raise UserError(f"--out {out} is a folder of frames to draw: choose another folder")


def prepare_folder(out: Path, stems: Mapping[str, str], *, overwrite: bool) -> None:
    """Creates the folder `out`, and checks that the outputs can be written.

    Args:
      out: folder of the outputs.
      stems: names of the outputs without suffix, with the suffix of each.
      overwrite: whether existing files may be overwritten.

    Raises:
      UserError: the folder cannot be created, or an output exists and may not be overwritten.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create --out {out}: {error.strerror}; choose another folder") from error
    for name, suffix in stems.items():
        for kind in (suffix, ".npz"):
            check_result(with_suffix(out / name, kind), overwrite=overwrite)


def save_figure(figure: Figure, arrays: Mapping[str, np.ndarray], target: Path) -> None:
    """Writes a figure to `target`.png, and its arrays to `target`.npz."""
    write_result(with_suffix(target, ".png"), as_png(figure))
    save_arrays(arrays, target)


def save_arrays(arrays: Mapping[str, np.ndarray], target: Path) -> None:
    """Writes arrays to `target`.npz."""
    written = io.BytesIO()
    np.savez_compressed(written, **arrays)
    write_result(with_suffix(target, ".npz"), written.getvalue())


def with_suffix(target: Path, suffix: str) -> Path:
    """Returns the path with a suffix added."""
    return target.with_name(f"{target.name}{suffix}")  # not `Path.with_suffix`, because a name may contain dots


def target_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Returns a unique output name for each file, different from the names of the model's figures.

    See `output_file_names`.
    """
    return output_file_names(paths, taken=(KERNELS, FIELD))
