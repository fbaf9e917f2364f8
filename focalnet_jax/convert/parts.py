"""Multiplies pruned parameters by their masks, and raises errors for other parameters stored in parts or quantized."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from focalnet_jax.convert.tensors import Tensors
from focalnet_jax.errors import UserError

_ORIGINAL, _MASK = "_orig", "_mask"  # suffixes of torch.nn.utils.prune
# Pattern of tensor names, their content in words, and what to do.
_KINDS = (
    (
        r"\.(lora_\w+|base_layer|modules_to_save|hada_w\w+|lokr_w\w+|ia3_l|oft_r|boft_\w+|vera_\w+)(\.|$)",
        "adapters such as PEFT's LoRA in addition to the layers that they change",
        "merge them in PyTorch: model.merge_and_unload(), then save its state_dict()",
    ),
    (
        r"(_packed_params|\.(absmax|quant_map|SCB|qweight|qzeros|weight_scale|weight\._data|weight_zero_point))(\.|$)"
        r"|\.quant_state\.|\.zero_point$",
        "quantized weights",
        "save the model before it is quantized",
    ),
    (
        r"\.parametrizations\.\w+\.original$|\.weight_u$",
        "weights under a parametrization such as spectral_norm",
        "remove it in PyTorch, with torch.nn.utils.remove_spectral_norm, or "
        "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')",
    ),
    (
        r"\.(weight_[gv]|parametrizations\.\w+\.original[01])$",
        "weights in the two parts of weight_norm",
        "merge them in PyTorch, with torch.nn.utils.remove_weight_norm, or "
        "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')",
    ),
    (
        r"\.(weight|bias)_(orig|mask)$",
        "pruned weights whose mask or values are missing",
        "make the pruning permanent in PyTorch: torch.nn.utils.prune.remove(module, 'weight')",
    ),
)
_OF_OPTIMIZER = re.compile(
    r"(^|\.)(\w*optim\w*|param_groups|exp_avg\w*|max_exp_avg\w*|momentum_buffer|square_avg|acc_delta|fp32_flat_groups"
    r"|single_partition_of_fp32_groups|state\.\d+)(\.|$)"
)
_INTEGERS = ("int8", "uint8", "I8", "U8", "float8", "F8", "qint", "quint")


def refuse_parts(names: Iterable[str], source: str) -> None:
    """Raises `UserError` if tensor names belong to quantized parameters or to parameters stored in parts.

    The message says what to do.
    """
    names = list(names)
    for pattern, what, todo in _KINDS:
        if found := next((name for name in names if re.search(pattern, f".{name}")), None):
            raise UserError(f"{source} contains {what} ({found[:100]}); {todo}")


def refuse_foreign(tensors: Tensors, source: str) -> None:
    """Raises `UserError` if a file without a FocalNet contains parameters stored in parts or only optimizer state."""
    names = [*tensors, *tensors.others]
    refuse_parts(names, source)
    if any(map(_OF_OPTIMIZER.search, names)) and all(map(_OF_OPTIMIZER.search, tensors)):
        raise UserError(f"{source} contains optimizer state but no weights; expected the file with the model")


def is_quantized(kind: str) -> bool:
    """Returns whether `kind`, the name of a dtype or of a function that rebuilds a tensor, means quantized weights."""
    return kind.startswith(_INTEGERS) or "qtensor" in kind


def multiply_masks(tensors: Tensors) -> Tensors:
    """Returns tensors with each pruned parameter multiplied by its mask, as torch does in every forward pass."""
    pairs = {}
    for name in tensors:
        mask = name.removesuffix(_ORIGINAL) + _MASK
        same = name.endswith(_ORIGINAL) and tensors.shapes.get(mask) == tensors.shapes[name]
        if same and not {name, mask} & tensors.problems.keys():
            pairs[name.removesuffix(_ORIGINAL)] = name, mask
    if not pairs or pairs.keys() & tensors.shapes.keys():
        return tensors
    masks = {mask for _, mask in pairs.values()}
    names = {name.removesuffix(_ORIGINAL) if name.removesuffix(_ORIGINAL) in pairs else name: name for name in tensors}
    names = {new: old for new, old in names.items() if old not in masks}

    def read(name: str) -> np.ndarray:
        array = tensors[names[name]]
        return array * tensors[pairs[name][1]].astype(array.dtype) if name in pairs else array

    return Tensors(
        {new: tensors.shapes[old] for new, old in names.items()},
        {new: tensors.dtypes[old] for new, old in names.items()},
        read,
        (*tensors.notes, f"{len(pairs)} pruned tensors multiplied by their masks"),
        problems={new: tensors.problems[old] for new, old in names.items() if old in tensors.problems},
        others=tensors.others,
        class_lists=tensors.class_lists,
        palettes=tensors.palettes,
        places={new: tensors.places.get(old, old) for new, old in names.items()},
    )
