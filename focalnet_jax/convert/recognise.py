"""Recognises a model from the names and shapes of its tensors."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from focalnet_jax.convert.tables import TABLES
from focalnet_jax.errors import UserError, suggest
from focalnet_jax.model import FocalNetConfig, list_models, variant_config
from focalnet_jax.model.variants import ABLATIONS

Shapes = Mapping[str, tuple[int, ...]]
# Options that the names and shapes of tensors determine in every format.
_FROM_SHAPES = (
    "embed_dim",
    "depths",
    "focal_levels",
    "focal_windows",
    "focal_factor",
    "mlp_ratio",
    "patch_size",
    "use_conv_embed",
    "use_layerscale",
    "use_postln_in_modulation",
    "in_channels",
)
NOT_FROM_SHAPES = ("use_postln", "normalize_modulator")  # except use_postln in timm, where tensor names determine it


@dataclass(frozen=True)
class Recognised:
    """A recognised model, and the sources of its options."""

    name: str | None  # the released variant with these shapes, if any
    config: FocalNetConfig
    sources: dict[str, str] = field(default_factory=dict)  # source of an option's value, such as "shapes" or "the user"


def recognise(
    shapes: Shapes,
    *,
    format: str,
    name: str | None = None,
    configured: Mapping[str, Any] | None = None,
    config_name: str = "config.json",
    overrides: Mapping[str, Any] | None = None,
    assumed: Mapping[str, Any] | None = None,
    replaced: Mapping[str, Any] | None = None,
    flag: str = "--option ",
) -> Recognised:
    """Recognises the model to which the tensors of a file belong.

    Args:
      shapes: shapes of the tensors by name in the format, without a prefix.
      format: a key of `TABLES`.
      name: name of the variant given by the user, or None.
      configured: options in an accompanying config.
      config_name: name of that config in messages.
      overrides: options given by the user, which must agree with the config and with the names of the tensors.
      assumed: options of the target model, used for options that no other source except the variant determines.
      replaced: options of the variant `name` that the target model replaces; the weights may have either value.
      flag: flag with which the user gives an option, for messages.

    Raises:
      UserError: tensors are missing, the shapes do not fit the variant `name` or the accompanying config, two sources
        of an option differ, or an option has no source.
    """
    seen = _options(shapes, format, configured or {})
    _check_configured(seen, configured or {})
    sources = dict.fromkeys(seen, "shapes")
    matching = [known for known in list_models() if _agree(variant_config(known), seen)]
    if name is not None:
        expected, compared = variant_config(name), (*_FROM_SHAPES, "use_postln")
        given = seen | dict(overrides or {})
        accepted = [expected, dataclasses.replace(expected, **replaced or {})]
        differing = [
            key
            for key, value in given.items()
            if key in compared and all(_value(config, key) != value for config in accepted)
        ]
        if differing:
            texts = "; ".join(f"{key} is {given[key]}, {name} has {_value(expected, key)}" for key in differing)
            raise UserError(f"these are not the weights of {name}: {texts}")
    elif matching:
        name = matching[0]
    options, unknown = dict(seen), []
    for key in NOT_FROM_SHAPES:
        known = {config_name: configured or {}, "the tensors' names": _postln_by_names(shapes, format)}
        for source, values in known.items():
            if key in (overrides or {}) and values.get(key, overrides[key]) != overrides[key]:
                raise UserError(
                    f"{key}={overrides[key]} was given, but it is {values[key]} according to {source}: omit {key}"
                )
        for source, values in {"the user": overrides, **known, "the target model": assumed}.items():
            if values and values.get(key) is not None:
                options[key], sources[key] = values[key], source
                break
        else:
            if name is None:
                unknown.append(key)
                continue
            options[key], sources[key] = getattr(variant_config(name), key), f"variant {name}"
    if unknown:
        flags = " ".join(f"{flag}{key}=false" for key in unknown)
        in_python = " (in Python as keywords of load_model)" if flag.startswith("--option") else ""
        raise UserError(
            f"no released variant has these shapes, and shapes do not determine {' and '.join(unknown)}: give {flags}, "
            f"or true, as in the original model{in_python}"
        )
    base = variant_config(name) if name else FocalNetConfig()
    config = dataclasses.replace(base, **{key: _collapsed(key, value) for key, value in options.items()})
    return Recognised(name, config, sources)


def _check_configured(seen: Mapping[str, Any], configured: Mapping[str, Any]) -> None:
    """Raises `UserError` if an accompanying config does not fit the tensors."""
    for key in (key for key in ("depths", *configured) if key in seen.keys() & configured.keys()):
        value = tuple(configured[key]) if isinstance(configured[key], list) else configured[key]
        held = seen["embed_dim"][0] if key == "embed_dim" else seen[key]
        if value != held:
            raise UserError(f"{key} is {value} in config.json, but the tensors have {held}: correct config.json")


def released_name(config: FocalNetConfig) -> str | None:
    """Returns the name of the released variant with the architecture of `config`, or None if there is none.

    The number of classes may differ.
    """
    return next((name for name in list_models() if is_variant(config, name)), None)


def is_variant(config: FocalNetConfig, name: str, replaced: Mapping[str, Any] | None = None) -> bool:
    """Returns whether `config` has the architecture of the variant `name`, as released or with the options `replaced`.

    The number of classes may differ.
    """
    variant, replaced = variant_config(name), replaced or {}
    known = [variant]
    # With another number of stages, options in `replaced` that have one value per stage would not fit the variant.
    if len(replaced.get("depths", variant.depths)) == len(config.depths):
        known.append(dataclasses.replace(variant, **replaced))
    keys = (*_FROM_SHAPES, *NOT_FROM_SHAPES, *ABLATIONS)
    return any(all(_value(each, key) == _value(config, key) for key in keys) for each in known)


def _collapsed(key: str, value: Any) -> Any:
    """Replaces a tuple with one value per stage by a single value that `FocalNetConfig` expands to the same tuple.

    `FocalNetConfig` doubles `embed_dim` at every stage and repeats other values. If no single value gives the tuple,
    and for `depths`, returns `value` unchanged.
    """
    if not isinstance(value, tuple) or key == "depths":
        return value
    expected = (
        tuple(value[0] * 2**stage for stage in range(len(value))) if key == "embed_dim" else value[:1] * len(value)
    )
    return value[0] if value == expected else value


def _agree(config: FocalNetConfig, seen: Mapping[str, Any]) -> bool:
    return all(_value(config, key) == seen[key] for key in _FROM_SHAPES if key in seen)


def _value(config: FocalNetConfig, key: str) -> Any:
    """Returns the value of an option. Per-stage options have one value per stage, as in `_options`."""
    if key == "embed_dim":
        return config.dims
    if key in ("focal_levels", "focal_windows", "focal_factor"):
        value = getattr(config, key)
        return value if isinstance(value, tuple) else (value,) * len(config.depths)
    return getattr(config, key)


def _options(shapes: Shapes, format: str, configured: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a model from the shapes of its tensors. Per-stage options have one value per stage.

    If shapes fit several values, the accompanying config decides.

    Raises:
      UserError: tensors are missing, or have an empty axis or a different number of axes than in the format.
    """
    by_role = _roles(shapes, format)
    blocks = [indices for role, indices, _ in by_role if role == "stages/blocks/norm2/scale"]
    stages = 1 + max((indices["stage"] for indices in blocks), default=-1)
    deepest = max((indices["block"] for indices in blocks), default=-1)
    if not stages or max(stages, deepest) > len(blocks):
        raise UserError(
            f"these FocalNet weights have only {len(blocks)} blocks, with block numbers up to {deepest} and stage "
            f"numbers up to {stages - 1}; expected a complete model"
        )
    depths = tuple(1 + max((i["block"] for i in blocks if i["stage"] == stage), default=-1) for stage in range(stages))

    def shape(role: str, **wanted: int) -> tuple[int, ...] | None:
        for found, indices, size in by_role:
            if found == role and all(indices.get(key) == value for key, value in wanted.items()):
                return size
        return None

    def windows(stage: int) -> list[int]:
        role = "stages/blocks/modulation/focal_kernels/kernel"
        sizes = {i["level"]: s[-1] for found, i, s in by_role if found == role and i["stage"] == stage}
        return [sizes[level] for level in sorted(sizes)]

    stem, kernels = shape("patch_embed/proj/kernel"), [windows(stage) for stage in range(stages)]
    mlps = [shape("stages/blocks/mlp/fc1/kernel", stage=stage) for stage in range(stages)]
    if stem is None or not all(mlps) or not all(kernels):
        raise UserError("these FocalNet weights lack an embedding, an MLP or focal levels; expected a whole model")
    down = shape("stages/downsample/proj/kernel")
    # If there is only one stage, a stem kernel of size 7 may be an overlapped embedding or patches of size 7.
    overlapped = (stem[-1] == 7 and configured.get("use_conv_embed", True)) if down is None else down[-1] == 3
    dims = tuple(shape("stages/blocks/norm2/scale", stage=stage)[0] for stage in range(stages))
    hidden = [size[0] for size in mlps]
    options: dict[str, Any] = {
        "embed_dim": dims,
        "depths": depths,
        "focal_levels": tuple(len(sizes) for sizes in kernels),
        "focal_windows": tuple(sizes[0] for sizes in kernels),
        "mlp_ratio": _mlp_ratio(hidden, dims, configured.get("mlp_ratio")),
        "patch_size": 4 if overlapped else stem[-1],
        "use_conv_embed": overlapped,
        "use_layerscale": shape("stages/blocks/gamma1") is not None,
        "use_postln_in_modulation": shape("stages/blocks/modulation/norm/scale") is not None,
        "in_channels": stem[1],
    }
    # One level does not determine the factor; all code bases default to 2.
    options["focal_factor"] = tuple(sizes[1] - sizes[0] if len(sizes) > 1 else 2 for sizes in kernels)
    head = shape("head/kernel")
    options["num_classes"] = head[0] if head else 0
    return options


def _mlp_ratio(hidden: Sequence[int], dims: Sequence[int], configured: float | None) -> float:
    """Returns `configured` if it gives these hidden widths, otherwise the ratio with the fewest decimals that does.

    If no ratio gives all widths, returns the largest of the stages' ratios.
    """
    low = max(width / dim for width, dim in zip(hidden, dims, strict=True))
    candidates = [configured or low, *(math.ceil(low * 10**digits - 1e-9) / 10**digits for digits in range(12)), low]
    fitting = (ratio for ratio in candidates if all(int(dim * ratio) == w for w, dim in zip(hidden, dims, strict=True)))
    return next(fitting, low)


def _roles(shapes: Shapes, format: str) -> list[tuple[str, dict[str, int], tuple[int, ...]]]:
    """Returns (parameter name without indices, indices by name, shape) for each tensor in the table of the format."""
    found = []
    for key, shape in shapes.items():
        for row in TABLES[format]:
            match = row.pattern.fullmatch(key)
            if match:
                if len(shape) != row.layout.rank or 0 in shape:
                    raise UserError(f"{key} has shape {tuple(shape)}; expected {row.layout.rank} axes, none empty")
                indices = {name: int(value) for name, value in match.groupdict().items() if value is not None}
                found.append((re.sub(r"/\{\w+\}", "", row.params[0]), indices, tuple(shape)))
    return found


def _postln_by_names(shapes: Shapes, format: str) -> dict[str, bool]:
    """Returns the value of `use_postln` by its name, from the names of timm's norms; {} for all other formats."""
    if format != "timm":
        return {}
    return {"use_postln": any("norm1_post" in key for key in shapes)}


def untagged(name: str) -> str:
    """Returns the variant in a name that timm or the hub uses, such as `hf-hub:timm/focalnet_tiny_srf.ms_in1k`.

    A value that is not a string is returned unchanged.
    """
    return name.rpartition("/")[2].rpartition(":")[2].partition(".")[0] if isinstance(name, str) else name


def check_options(texts: Sequence[str]) -> dict[str, bool]:
    """Returns the options given as `--option KEY=true|false`.

    Raises:
      UserError: a key is unknown or repeated, or a value is neither true nor false.
    """
    options = dict(map(_check_option, texts))
    if len(options) < len(texts):
        raise UserError(f"--option {' --option '.join(texts)}: expected each key once")
    return options


def _check_option(text: str) -> tuple[str, bool]:
    key, _, value = text.partition("=")
    if key not in NOT_FROM_SHAPES or value not in ("true", "false"):
        raise UserError(
            f"unknown option {text!r}; expected KEY=true or KEY=false, where KEY is {' or '.join(NOT_FROM_SHAPES)}."
            f"{suggest(key, NOT_FROM_SHAPES)}"
        )
    return key, value == "true"
