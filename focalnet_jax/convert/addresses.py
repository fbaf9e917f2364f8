"""Raises errors for URLs, and for names on the Hugging Face Hub that are not addresses `hf://`."""

from __future__ import annotations

import re

from focalnet_jax.errors import UserError
from focalnet_jax.model import list_models
from focalnet_jax.system.files import ADDRESS

_NAME = r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)"
# `Path` collapses the two slashes of a URL into one.
_ON_THE_HUB = re.compile(
    rf"(?:(?:hf[-_]hub|huggingface):/*|https?:/+(?:www\.)?(?:huggingface\.co|hf\.co)/){_NAME}"
    r"(?:@(?P<tag>[\w.-]+)|/(?:blob|resolve|raw|tree)/(?P<revision>[\w.-]+)(?P<file>(?:/[\w.-]+)*))?(?:[@/?#].*)?"
)
_OF_TIMM = re.compile(r"focalnet_\w+\.ms_\w+")  # a variant and the tag of its weights
_BARE_NAME = re.compile(rf"{_NAME}(?:@[\w.-]+)?(?<!\.pth)(?<!\.pt)(?<!\.tar)(?<!\.bin)(?<!\.ckpt)(?<!\.safetensors)")


def refuse_address(path: str) -> None:
    """Raises `UserError` if `path`, where no file exists, is a URL or looks like a name on the Hugging Face Hub.

    The message says what to give instead.
    """
    if match := _ON_THE_HUB.fullmatch(path):
        shown = re.sub(r"^(https?):/(?=\w)", r"\1://", path)  # restores the second slash
        raise UserError(
            f"{shown[:200]} is on the Hugging Face Hub: give hf://{match['name']}{_revision_and_file(match)}"
        )
    if match := ADDRESS.fullmatch(path):
        shown = f"{match['scheme']}://{match['rest'][:200]}"
        if match["scheme"].lower() == "file":
            raise UserError(f"{shown} is a URL; give the file as a path, /{match['rest'][:200]}")
        if match["scheme"].lower() == "s3":
            raise UserError(f"{shown}: S3 is not supported; mount the bucket, or download the file and give its path")
        if match["scheme"].lower() == "gcs":
            raise UserError(f"{shown}: expected a path or gs://BUCKET/NAME. Did you mean gs://{match['rest'][:200]}?")
        raise UserError(f"{shown} is a URL; expected a path: download the file and give its path")
    if _OF_TIMM.fullmatch(path) and path.partition(".")[0] in list_models():
        raise UserError(f"{path} is the name of weights on the hub, not a file: give hf://timm/{path}")
    if (match := _BARE_NAME.fullmatch(path)) and "focalnet" in path.lower():
        raise UserError(f"there is no file at {path[:200]}; if it is on the Hugging Face Hub, give hf://{path[:200]}")


def _revision_and_file(match: re.Match[str]) -> str:
    """Returns the revision and the file in a name or URL of the hub, as written in an address `hf://`."""
    if match["tag"]:
        return f"@{match['tag']}"
    if not match["revision"]:
        return ""
    revision = "" if match["revision"] == "main" else f"@{match['revision']}"
    return f"{revision}{match['file'] or ''}"
