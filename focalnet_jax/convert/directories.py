"""Finds the weights in a Hugging Face or DeepSpeed directory, or in a folder with a single weights file."""

from __future__ import annotations

import re
from pathlib import Path

from focalnet_jax.errors import UserError
from focalnet_jax.hub.choice import MODEL_FILES as HUGGINGFACE_FILES

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
# accelerate's save_state writes a second model as model_1.safetensors or pytorch_model_1.bin
_OF_SEVERAL = re.compile(r"(?P<stem>(pytorch_)?model([._-](?!\d{5}-of-)\w+)?)\.(safetensors|bin)(\.index\.json)?")
_DEEPSPEED = "mp_rank_*_model_states.pt"
_PARTITIONED = "zero_pp_rank_*_model_states.pt"  # ZeRO stage 3


def weights_in(folder: Path) -> Path | None:
    """Returns the weights file in a directory, or the index of its shards.

    Files with the names of Hugging Face or DeepSpeed have precedence. Returns None if the directory has no weights
    file, or several weights files next to other files.

    Raises:
      UserError: the directory cannot be read, contains several weights files and no other files, or has an unsupported
        layout or format.
    """
    try:
        for name in HUGGINGFACE_FILES:
            if (folder / name).is_file():
                return folder / name
        if found := _deepspeed(folder):
            return found
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise UserError(f"cannot read {str(folder)[:100]}: {error.strerror}") from error
    if snapshots := sorted(entry.name for entry in folder.glob("snapshots/*") if entry.is_dir()):
        raise UserError(
            f"{folder} is a repository in the hub's cache: give a snapshot in it, {folder}/snapshots/{snapshots[-1]}"
        )
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        raise UserError(
            f"{folder} is a sharded checkpoint of torch.distributed; convert it to one file: "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} FILE.pth"
        )
    if {"saved_model.pb", "tf_model.h5", "flax_model.msgpack"} & set(names):
        raise UserError(f"{folder} contains a TensorFlow or Flax model; expected weights of a PyTorch FocalNet")
    weights = [name for name in names if name.endswith(_SUFFIXES)]
    if len(weights) > 1 and set(weights) == set(names):
        raise UserError(f"{folder} contains {len(weights)} weights files, such as {weights[0]}: give one of them")
    return folder / weights[0] if len(weights) == 1 else None


def choose_file(path: Path, which: str | None) -> tuple[Path, str | None, tuple[str, ...]]:
    """Selects a file in a directory with several models, such as accelerate writes.

    Args:
      path: a directory. Any other path is returned unchanged.
      which: the name or stem of a file, such as "model_1". Any other value selects a model within a file.

    Returns:
      The path to read; `which` if it selects a model within that file, otherwise None; and notes on the choice.

    Raises:
      UserError: see `weights_in`.
    """
    found = weights_in(path) if path.is_dir() else None
    if found is None or not _OF_SEVERAL.fullmatch(found.name):
        return path, which, ()
    names = sorted(entry.name for entry in path.iterdir() if _OF_SEVERAL.fullmatch(entry.name))
    stems = {name: _OF_SEVERAL.fullmatch(name)["stem"] for name in names}
    others = sorted({stem for name, stem in stems.items() if _model(stem) != _model(stems[found.name])})
    chosen = [name for name in names if which in (name, stems[name])]
    if chosen and (others or found.name not in chosen):
        best = min(chosen, key=lambda name: (name.partition(".")[2] != found.name.partition(".")[2], name))
        return path / best, None, ()
    if not others:  # `which` selects a model within the file
        return path, which, ()
    left, more = others[0], f" and {len(others) - 1} more" if len(others) > 1 else ""
    return (
        path,
        which,
        (f"took {found.name}, not the model {left}{more} in that directory: use --weights {left} for it",),
    )


def _model(stem: str) -> str:
    """Returns a stem without the prefix of a format. `model_1` and `pytorch_model_1` may be the same model."""
    return stem.removeprefix("pytorch_")


def _deepspeed(folder: Path) -> Path | None:
    """Returns the model file of a DeepSpeed checkpoint, or None for other folders.

    Raises:
      UserError: the checkpoint stores the model in parts, which must be merged first.
    """
    latest = folder / "latest"
    tag = latest.read_text(errors="replace").strip() if latest.is_file() and latest.stat().st_size < 1000 else ""
    named = [folder / tag] if tag and "/" not in tag and tag not in (".", "..") else []
    for place in (*named, folder / "checkpoint", folder):  # Lightning writes the subfolder "checkpoint"
        ranks = sorted(place.glob(_DEEPSPEED))
        if any(place.glob(_PARTITIONED)):
            raise UserError(
                f"{place} is a DeepSpeed checkpoint of ZeRO stage 3, in parts; convert it to one file with the "
                "zero_to_fp32.py in that folder: python zero_to_fp32.py . OUT"
            )
        if len(ranks) > 1:
            raise UserError(f"{place} has the model in {len(ranks)} tensor-parallel parts; merge them into one file")
        if ranks:
            return ranks[0]
    return None
