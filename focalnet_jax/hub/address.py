"""Addresses on the Hugging Face Hub: hf://ORG/NAME[@REVISION][/FILE]."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from focalnet_jax.errors import UserError

FORM = "hf://ORG/NAME[@REVISION][/FILE]"
_LONGEST = 200  # maximum length of an address in messages, in characters
_OTHER_KINDS = {"datasets": "a data set", "spaces": "a space", "buckets": "a bucket", "kernels": "a kernel"}
# Revisions of pull requests and conversions contain a slash. In other revisions, a slash is written as %2F.
_PARTS = re.compile(
    r"(?P<org>[^/@]*)/(?P<name>[^/@]*)(?:@(?P<revision>refs/(?:pr/\d+|convert/[\w.-]+)|[^/]*))?(?:/(?P<path>.*))?",
    re.DOTALL,
)
_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[\w.-]{0,94}[\w])?(?<!\.git)", re.ASCII)
_LIKE_A_SCHEME = re.compile(r"(?:hf|fh):?/{1,3}(?!/)|(?:hf|fh):(?!/)|hf//+", re.IGNORECASE)


@dataclass(frozen=True)
class Address:
    """A model repository on the hub, or a file or folder in the repository."""

    repo: str  # ORG/NAME
    revision: str | None = None  # a branch, tag or commit, or None for main
    path: str = ""  # a file or folder in the repository, or "" for its root

    def __str__(self) -> str:
        revision = self.revision or ""
        if not re.fullmatch(r"refs/(?:pr/\d+|convert/[\w.-]+)", revision):
            revision = quote(revision, safe="")
        return f"hf://{self.repo}{f'@{revision}' if revision else ''}{f'/{self.path}' if self.path else ''}"


def is_address(path: str | Path) -> bool:
    """Returns whether a path begins with `hf:`, like addresses on the hub, including malformed addresses."""
    return str(path).lower().startswith("hf:")


def parse_address(given: str | Path) -> Address:
    """Returns the parts of an address.

    Args:
      given: the address, as a string or a `Path`, which collapses the two slashes of `hf://` into one.

    Raises:
      UserError: `given` is not the address of a model. The message says what is expected.
    """
    text = str(given)
    if isinstance(given, Path):
        text = re.sub(r"^(hf):/(?!/)", r"\1://", text, flags=re.IGNORECASE)
    shown = text[:_LONGEST]
    rest = text[len("hf://") :]
    if text[: len("hf://")].lower() != "hf://" or rest.startswith("/"):
        fixed = _LIKE_A_SCHEME.sub("hf://", text, count=1)
        raise UserError(f"{shown} is not an address on the hub; expected {FORM}. Did you mean {fixed[:_LONGEST]!r}?")
    kind, _, inner = rest.partition("/")
    if kind in _OTHER_KINDS and inner:
        raise UserError(f"{shown} is {_OTHER_KINDS[kind]} on the hub; expected a model, {FORM}")
    if kind == "models" and inner.count("/"):  # the long form, which huggingface_hub also accepts
        rest = inner
    parts = _PARTS.fullmatch(rest.rstrip("/") if rest.count("/") > 1 else rest)
    if parts is None or not parts["org"] or not parts["name"]:
        raise UserError(f"{shown} names no repository; expected {FORM}, such as hf://timm/focalnet_tiny_srf.ms_in1k")
    for name in (parts["org"], parts["name"]):
        if not _NAME.fullmatch(name):
            raise UserError(
                f"{shown}: {name!r} is not a valid name on the hub; expected {FORM}, where names consist of letters, "
                "digits, _, and single - or ."
            )
    revision, path = parts["revision"], parts["path"] or ""
    if revision == "":
        raise UserError(f"{shown} has no revision after @; expected {FORM}")
    if path and any(part in ("", ".", "..") for part in path.split("/")):
        raise UserError(f"{shown}: {path[:_LONGEST]!r} is not a file in a repository; expected {FORM}")
    return Address(f"{parts['org']}/{parts['name']}", unquote(revision) if revision else None, path)


def refuse_runs(path: str | Path) -> None:
    """Raises `UserError` if the path of a run is an address on the hub, because the hub stores only weights."""
    if is_address(path):
        shown = re.sub(r"^hf:/+", "hf://", str(path), flags=re.IGNORECASE)[:_LONGEST]
        raise UserError(f"{shown} is on the Hugging Face Hub, which stores weights, not runs; expected a workdir")
