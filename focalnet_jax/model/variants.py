"""The released FocalNets by name, and the options of a FocalNet.

Source: FocalNet paper (arXiv 2203.11926), tables 1 and 7, and the configuration files of the original
code base. `base_iso` follows the released weights, not the original's last configuration, which calls
the LayerNorm inside the modulation `use_postln`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from focalnet_jax.errors import UserError, suggest
from focalnet_jax.model.released import RELEASED
from focalnet_jax.ops.implementations import IMPLEMENTATIONS

ABLATIONS = ("use_gates", "use_global_level", "use_depthwise_conv", "use_modulation")
"""Fields of the components that the paper removes one by one (table 13); they are True in every released variant."""

REMATS = ("auto", "none", "dots", "full")
"""Values of `remat`, see `ops.stack.REMAT_POLICIES`; "auto" selects the fastest policy on the platform."""

_MOST_CHANNELS = 2**20  # with more, the bytes of a matrix overflow 64 bits

Stagewise = int | tuple[int, ...]
"""One value for all stages, or one per stage."""


@dataclass(frozen=True)
class FocalNetConfig:
    """Options of a FocalNet: sizes and operations.

    Fields of type `Stagewise` are one value for all stages or one value per stage. A single `embed_dim` is the width of
    the first stage; the width doubles at every further stage.
    """

    embed_dim: Stagewise = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    focal_levels: Stagewise = 2  # L, the number of depthwise levels before the global one
    focal_windows: Stagewise = 3  # kernel size of the first focal level
    focal_factor: Stagewise = 2  # added to the kernel size from each level to the next
    mlp_ratio: float = 4.0
    patch_size: int = 4
    use_conv_embed: bool = False  # overlapped patch embedding: k7 s4 p2, then k3 s2 p1
    use_postln: bool = False  # LayerNorm after modulation and MLP instead of before them
    use_layerscale: bool = False
    layerscale_value: float = 1e-4
    use_postln_in_modulation: bool = False  # LayerNorm on query * modulator
    normalize_modulator: bool = False  # divide the aggregated context by L + 1
    use_gates: bool = True  # False: levels are summed without gates (this and the next three fields are `ABLATIONS`)
    use_global_level: bool = True  # False: only the depthwise levels
    use_depthwise_conv: bool = True  # False: a level is the mean of its window, with zeros outside of the map
    use_modulation: bool = True  # False: the modulator is added to the query, not multiplied
    drop_rate: float = 0.0  # dropout after the embedding, after the modulation's projection and in the MLP
    drop_path_rate: float = 0.0  # stochastic depth of the last block; the rate rises linearly from 0 in the first
    num_classes: int = 1000  # 0: no classifier, the model returns pooled features
    in_channels: int = 3
    scan_blocks: bool | None = (
        None  # True: blocks in a scan (compile time independent of depth); False: unrolled; None: the faster
    )
    remat: str = "auto"  # values that a block keeps for the backward pass, one of REMATS
    aggregation: str = "auto"  # implementation of the context aggregation, see ops.implementations
    pointwise: str = "auto"  # implementation of embeddings, and of projections, norms and MLP of blocks

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(self.depths))  # a list has no hash
        for name, valid, what in (
            ("depths", len(self.depths) > 0 and min(self.depths, default=0) > 0, "a positive depth for every stage"),
            ("num_classes", 0 <= self.num_classes < 10**8, "0 (no classifier) or a positive number below 10**8"),
            ("drop_path_rate", 0 <= self.drop_path_rate < 1, "a rate in [0, 1)"),
            ("drop_rate", 0 <= self.drop_rate < 1, "a rate in [0, 1)"),
            ("patch_size", self.patch_size > 0, "a positive size in pixels"),
            ("in_channels", self.in_channels > 0, "a positive number"),
            ("layerscale_value", -math.inf < self.layerscale_value < math.inf, "a finite number"),
            ("mlp_ratio", 0 < self.mlp_ratio < math.inf, "a positive ratio"),
            ("patch_size", not self.use_conv_embed or self.patch_size == 4, "4, the stride of use_conv_embed"),
        ):
            if not valid:
                raise UserError(f"model.{name} is {getattr(self, name)}; expected {what}")
        if self.remat not in REMATS:
            raise UserError(
                f"unknown remat policy {self.remat!r}; expected one of {', '.join(REMATS)}."
                f"{suggest(self.remat, REMATS)}"
            )
        for name in ("embed_dim", "focal_levels", "focal_windows", "focal_factor"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != len(self.depths):
                raise UserError(
                    f"model.{name} is {value}, {len(value)} values for {len(self.depths)} stages (depths "
                    f"{self.depths}): give one number for all stages or one per stage"
                )
        if min(self.dims) <= 0 or min(self.levels) <= 0:
            raise UserError(
                f"model.embed_dim is {self.embed_dim} and model.focal_levels is {self.focal_levels}; expected positive "
                "numbers"
            )
        if max(self.dims) * max(self.mlp_ratio, 1) > _MOST_CHANNELS:
            raise UserError(
                f"model.embed_dim {self.embed_dim} and mlp_ratio {self.mlp_ratio} give {max(self.dims)} channels and "
                f"{max(self.dims) * self.mlp_ratio:.0f} in the MLP; expected at most {_MOST_CHANNELS}"
            )
        if int(min(self.dims) * self.mlp_ratio) < 1:
            raise UserError(
                f"model.mlp_ratio {self.mlp_ratio} gives the MLP of {min(self.dims)} channels no hidden channel; "
                f"expected at least {1 / min(self.dims):.3g}"
            )
        for stage in range(len(self.depths)):
            if any(k <= 0 or k % 2 == 0 for k in self.kernel_sizes(stage)):
                raise UserError(
                    f"model.focal_windows {self.focal_windows} with focal_factor {self.focal_factor} gives kernels of "
                    f"{self.kernel_sizes(stage)} in stage {stage}; expected positive odd sizes: use an odd window and "
                    "an even factor"
                )

    def _per_stage(self, value: Stagewise) -> tuple[int, ...]:
        return value if isinstance(value, tuple) else (value,) * len(self.depths)

    @property
    def dims(self) -> tuple[int, ...]:
        """Number of channels of each stage."""
        if isinstance(self.embed_dim, tuple):
            return self.embed_dim
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))

    @property
    def levels(self) -> tuple[int, ...]:
        """Number of focal levels L of each stage."""
        return self._per_stage(self.focal_levels)

    def kernel_sizes(self, stage: int) -> tuple[int, ...]:
        """Returns the kernel sizes of a stage: window + factor * l for l = 0, 1, ..., L - 1 (paper section 3.2)."""
        window, factor = self._per_stage(self.focal_windows)[stage], self._per_stage(self.focal_factor)[stage]
        return tuple(window + factor * level for level in range(self.levels[stage]))


def _released() -> dict[str, dict[str, Any]]:
    variants: dict[str, dict[str, Any]] = {}
    for size, depths, dim, rate in (
        ("tiny", (2, 2, 6, 2), 96, 0.2),
        ("small", (2, 2, 18, 2), 96, 0.3),
        ("base", (2, 2, 18, 2), 128, 0.5),
    ):
        for field, levels in (("srf", 2), ("lrf", 3)):
            variants[f"focalnet_{size}_{field}"] = dict(
                depths=depths, embed_dim=dim, focal_levels=levels, drop_path_rate=rate
            )
    for size, dim in (("tiny", 192), ("small", 384), ("base", 768)):
        variants[f"focalnet_{size}_iso"] = dict(
            depths=(12,), patch_size=16, embed_dim=dim, focal_levels=3, drop_path_rate=0.2
        )
    variants["focalnet_base_iso"].update(use_layerscale=True, use_postln_in_modulation=True)
    for size, dim in (("large", 192), ("xlarge", 256), ("huge", 352)):
        for levels in (3, 4):
            variants[f"focalnet_{size}_fl{levels}"] = dict(
                depths=(2, 2, 18, 2),
                embed_dim=dim,
                focal_levels=levels,
                focal_windows=5 if levels == 3 and size != "huge" else 3,
                use_conv_embed=True,
                use_postln=True,
                use_layerscale=True,
                use_postln_in_modulation=size == "huge",
                normalize_modulator=size == "large" and levels == 4,
                drop_path_rate=0.5,
            )
    return variants


VARIANTS = _released()


def list_models(pretrained: bool = False) -> list[str]:
    """Returns the names of all released variants.

    With `pretrained`, returns the names of the weights that `create_model(name, pretrained=True)` downloads. A name
    consists of the variant and a tag for the training data, such as `focalnet_tiny_srf.ms_in1k`.
    """
    return [each.name for each in RELEASED] if pretrained else list(VARIANTS)


def variant_config(name: str, **overrides: Any) -> FocalNetConfig:
    """Returns the configuration of a released variant.

    Args:
      name: name of the variant.
      **overrides: fields of `FocalNetConfig` to replace; None keeps the variant's value.

    Raises:
      UserError: the name or a field is unknown (the message suggests names), or a value is invalid.
    """
    if not isinstance(name, str) or name not in VARIANTS:
        raise UserError(f"unknown model {name!r}.{suggest(str(name), VARIANTS) or ' Known: ' + ', '.join(VARIANTS)}")
    return FocalNetConfig(**(VARIANTS[name] | checked_fields(overrides)))


def checked_fields(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fields for a `FocalNetConfig` after checking their names and types.

    Fields that are None are omitted, and lists become tuples.

    Raises:
      UserError: a field is unknown (the message suggests names), or a value has a wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(FocalNetConfig)}
    for key in overrides:
        if key not in fields:
            raise UserError(f"unknown model option {key!r}.{suggest(key, fields) or ' Known: ' + ', '.join(fields)}")
    return {key: _as(fields[key], value) for key, value in overrides.items() if value is not None}


def _as(field: dataclasses.Field, value: Any) -> Any:
    """Returns `value` after checking its type; lists become tuples, and integers are valid for floats."""
    if isinstance(value, list):
        value = tuple(value)
    kinds = {
        "Stagewise": (lambda v: _is_int(v) or _is_ints(v), "an integer or one integer per stage"),
        "tuple[int, ...]": (_is_ints, "a tuple of integers"),
        "int": (_is_int, "an integer"),
        "float": (lambda v: _is_int(v) or isinstance(v, float), "a number"),
        "bool": (lambda v: isinstance(v, bool), "True or False"),
        "bool | None": (lambda v: isinstance(v, bool), "True, False, or None for the faster"),
        "str": (lambda v: isinstance(v, str), "a string"),
    }
    fits, what = kinds[field.type]
    if not fits(value):
        raise UserError(f"model.{field.name} is {value!r}; expected {what}")
    return value


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_ints(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_int, value))


def model_metadata(name: str | None, config: FocalNetConfig) -> dict[str, Any]:
    """Returns the description of a model that a checkpoint stores and `model_from_metadata` reads."""
    return {"name": name, "config": dataclasses.asdict(config)}


def model_from_metadata(stored: dict[str, Any]) -> tuple[str | None, FocalNetConfig]:
    """Returns the name and the configuration of a model from the description in a checkpoint.

    The name is None if the model is not a released variant.

    Raises:
      UserError: the description is damaged.
    """
    try:
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in stored["config"].items()}
        # The implementations with which the model was trained may not exist on this platform.
        return stored["name"], FocalNetConfig(**fields | dict.fromkeys(IMPLEMENTATIONS, "auto"))
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"the checkpoint's description of its model is damaged ({error!r}); expected a name and the fields of "
            "FocalNetConfig: give another checkpoint"
        ) from error
