"""Errors for URLs and hub names given instead of a path. This package does not download weights."""

from __future__ import annotations

import re

from focalnet_jax.errors import UserError
from focalnet_jax.model import list_models

_NAME = r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)"
# `Path` collapses the two slashes of a URL into one.
_ON_THE_HUB = re.compile(
    rf"(?:(?:hf[-_]hub|hf|huggingface):/*|https?:/+(?:www\.)?(?:huggingface\.co|hf\.co)/){_NAME}(?:[@/?#].*)?"
)
_OF_TIMM = re.compile(r"focalnet_\w+\.ms_\w+")  # a variant and the tag of its weights
_BARE_NAME = re.compile(rf"{_NAME}(?:@[\w.-]+)?(?<!\.pth)(?<!\.pt)(?<!\.tar)(?<!\.bin)(?<!\.ckpt)(?<!\.safetensors)")
_ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]{1,20}):/+(?P<rest>.*)", re.IGNORECASE | re.DOTALL)


def refuse_address(path: str) -> None:
    """Raises `UserError` if `path`, where no file exists, is a URL or a name on the Hugging Face Hub.

    The message says how to download the weights.
    """
    if match := _ON_THE_HUB.fullmatch(path):
        shown = re.sub(r"^(https?|hf):/(?=\w)", r"\1://", path)  # restores the second slash
        raise UserError(f"{shown[:200]} is on the Hugging Face hub; {_fetch(match['name'])}")
    if match := _ADDRESS.fullmatch(path):
        shown = f"{match['scheme']}://{match['rest'][:200]}"
        if match["scheme"].lower() == "file":
            raise UserError(f"{shown} is a URL; give the file as a path, /{match['rest'][:200]}")
        raise UserError(f"{shown} is a URL; expected a path: download the file and give its path")
    if _OF_TIMM.fullmatch(path) and path.partition(".")[0] in list_models():
        raise UserError(f"{path} is the name of weights on the hub, not a file; {_fetch(f'timm/{path}')}")
    if (match := _BARE_NAME.fullmatch(path)) and "focalnet" in path.lower():
        raise UserError(f"there is no file at {path[:200]}; if it is on the Hugging Face hub, {_fetch(match['name'])}")


def _fetch(name: str) -> str:
    return f"fetch it and give the directory: hf download {name} --local-dir DIR"
