"""Addresses of the released weights of each variant on the Hugging Face Hub.

timm's repositories contain the weights in the format of timm, and the authors' repositories contain them in the format
of transformers. Both were converted from the files of github.com/microsoft/FocalNet. The weights of the isotropic
models are only on GitHub. `parity/test_released.py` compares this table with the table in the installed timm.
"""

from __future__ import annotations

from dataclasses import dataclass

from focalnet_jax.errors import UserError, suggest

_ORIGINAL = "https://github.com/microsoft/FocalNet"
_LICENSE = "mit"  # licence of the released weights


@dataclass(frozen=True)
class Released:
    """The released weights of a variant on the hub."""

    variant: str
    tag: str  # training data, as in timm's names
    num_classes: int
    image_size: int
    authors: str | None = None  # name of the authors' repository with the same weights, or None if it does not exist

    @property
    def name(self) -> str:
        """Name of the variant and tag, as in timm."""
        return f"{self.variant}.{self.tag}"

    @property
    def address(self) -> str:
        """Address of timm's repository."""
        return f"hf://timm/{self.name}"

    @property
    def authors_address(self) -> str | None:
        """Address of the authors' repository, or None if it does not exist."""
        return self.authors and f"hf://microsoft/{self.authors}"


_1K = dict(tag="ms_in1k", num_classes=1000, image_size=224)
_22K = dict(tag="ms_in22k", num_classes=21842)
RELEASED = (
    Released("focalnet_tiny_srf", authors="focalnet-tiny", **_1K),
    Released("focalnet_tiny_lrf", authors="focalnet-tiny-lrf", **_1K),
    Released("focalnet_small_srf", authors="focalnet-small", **_1K),
    Released("focalnet_small_lrf", authors="focalnet-small-lrf", **_1K),
    Released("focalnet_base_srf", authors="focalnet-base", **_1K),
    Released("focalnet_base_lrf", authors="focalnet-base-lrf", **_1K),
    Released("focalnet_large_fl3", authors="focalnet-large-lrf-fl3", image_size=384, **_22K),
    Released("focalnet_large_fl4", authors="focalnet-large-lrf-fl4", image_size=384, **_22K),
    Released("focalnet_xlarge_fl3", authors="focalnet-xlarge-lrf-fl3", image_size=384, **_22K),
    Released("focalnet_xlarge_fl4", authors="focalnet-xlarge-lrf-fl4", image_size=384, **_22K),
    Released("focalnet_huge_fl3", image_size=224, **_22K),
    Released("focalnet_huge_fl4", image_size=224, tag="ms_in22k", num_classes=0),  # without a classifier
)


def license_of(address: str) -> str | None:
    """Returns the licence of the released weights at an address on the hub, or None for other weights."""
    released = any(address in (each.address, each.authors_address) for each in RELEASED)
    return _LICENSE if released else None


def find_released(name: str) -> Released:
    """Returns the released weights of a variant.

    Args:
      name: name of the variant, optionally with the tag of its weights.

    Raises:
      UserError: the weights are not on the hub, or the tag is unknown.
    """
    variant, _, tag = name.partition(".")
    found = next((each for each in RELEASED if each.variant == variant), None)
    if found is None:
        raise UserError(
            f"the weights of {variant} are not on the Hugging Face Hub: download them from {_ORIGINAL} and give "
            "pretrained=PATH"
        )
    if tag and tag != found.tag:
        known = [each.name for each in RELEASED]
        raise UserError(f"{name} has no released weights; known: {found.name}.{suggest(name, known)}")
    return found
