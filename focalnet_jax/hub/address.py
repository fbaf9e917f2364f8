"""Addresses on the Hugging Face Hub: of models, hf://ORG/NAME[@REVISION][/FILE], and of data sets, hf://datasets/..."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

from focalnet_jax.errors import UserError

FORM = "hf://ORG/NAME[@REVISION][/FILE]"
DATASET_FORM = "hf://datasets/ORG/NAME[@REVISION][/FOLDER]"
_DATASETS = "datasets/"  # prefix of data sets, in addresses and in the hub's URLs
_LONGEST = 200  # maximum length of an address in messages, in characters
_FORMS = {  # form of an address, and an example, by kind
    "model": (FORM, "hf://timm/focalnet_tiny_srf.ms_in1k"),
    "dataset": (DATASET_FORM, "hf://datasets/timm/imagenet-1k-wds"),
}
_OTHER_KINDS = {"datasets": "a data set", "spaces": "a space", "buckets": "a bucket", "kernels": "a kernel"}
# A slash in a revision is written as %2F, except in the revisions of pull requests and conversions, refs/...
_PARTS = re.compile(
    r"(?P<org>[^/@]*)/(?P<name>[^/@]*)(?:@(?P<revision>refs/(?:pr/\d+|convert/[\w.-]+)|[^/]*))?(?:/(?P<path>.*))?",
    re.DOTALL,
)
_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[\w.-]{0,94}[\w])?(?<!\.git)", re.ASCII)
_LIKE_A_SCHEME = re.compile(r"(?:hf|fh):?/{1,3}(?!/)|(?:hf|fh):(?!/)|hf//+", re.IGNORECASE)


@dataclass(frozen=True)
class Address:
    """A repository on the hub, or a file or folder in the repository."""

    repo: str  # ORG/NAME
    revision: str | None = None  # a branch, tag or commit, or None for main
    path: str = ""  # a file or folder in the repository, or "" for its root
    kind: Literal["model", "dataset"] = "model"

    @property
    def page(self) -> str:
        """Path of the repository's page on the hub, such as datasets/ORG/NAME."""
        return f"{_DATASETS if self.kind == 'dataset' else ''}{self.repo}"

    @property
    def root(self) -> str:
        """Address of the repository, without revision and path."""
        return f"hf://{self.page}"

    def __str__(self) -> str:
        revision = self.revision or ""
        if not re.fullmatch(r"refs/(?:pr/\d+|convert/[\w.-]+)", revision):
            revision = quote(revision, safe="")
        return f"{self.root}{f'@{revision}' if revision else ''}{f'/{self.path}' if self.path else ''}"


def is_address(path: str | Path) -> bool:
    """Returns whether a path begins with `hf:`, like addresses on the hub, including malformed addresses."""
    return str(path).lower().startswith("hf:")


def parse_address(given: str | Path, kind: Literal["model", "dataset"] = "model") -> Address:
    """Returns the parts of an address.

    Args:
      given: the address, as a string or a `Path`, which collapses the two slashes of `hf://` into one.
      kind: the expected kind of repository.

    Raises:
      UserError: `given` is not the address of a repository of this kind. The message says what is expected.
    """
    text = str(given)
    form, example = _FORMS[kind]
    if isinstance(given, Path):
        text = re.sub(r"^(hf):/(?!/)", r"\1://", text, flags=re.IGNORECASE)
    shown = text[:_LONGEST]
    rest = text[len("hf://") :]
    if text[: len("hf://")].lower() != "hf://" or rest.startswith("/"):
        fixed = _LIKE_A_SCHEME.sub("hf://", text, count=1)
        raise UserError(f"{shown} is not an address on the hub; expected {form}. Did you mean {fixed[:_LONGEST]!r}?")
    rest = _of_kind(kind, rest, shown)
    parts = _PARTS.fullmatch(rest.rstrip("/") if rest.count("/") > 1 else rest)
    if parts is None or not parts["org"] or not parts["name"]:
        raise UserError(f"{shown} names no repository; expected {form}, such as {example}")
    for name in (parts["org"], parts["name"]):
        if not _NAME.fullmatch(name):
            raise UserError(
                f"{shown}: {name!r} is not a valid name on the hub; expected {form}, where names consist of letters, "
                "digits, _, and single - or ."
            )
    revision, path = parts["revision"], parts["path"] or ""
    if revision == "":
        raise UserError(f"{shown} has no revision after @; expected {form}")
    if path and any(part in ("", ".", "..") for part in path.split("/")):
        raise UserError(f"{shown}: {path[:_LONGEST]!r} is not a file in a repository; expected {form}")
    return Address(f"{parts['org']}/{parts['name']}", unquote(revision) if revision else None, path, kind)


def _of_kind(kind: str, rest: str, shown: str) -> str:
    """Returns `rest`, the part of an address after hf://, without the name of the kind of repository.

    Raises:
      UserError: the address is that of another kind of repository.
    """
    first, _, inner = rest.partition("/")
    if kind == "dataset":
        if rest.startswith(_DATASETS):
            return inner
        given = _OTHER_KINDS.get(first, "a model") if inner else "no data set"
        raise UserError(
            f"{shown} is {given} on the hub; expected a data set, {DATASET_FORM}."
            f"{f' Did you mean {str(Address(rest, kind=kind))[:_LONGEST]!r}?' if given == 'a model' else ''}"
        )
    if first in _OTHER_KINDS and inner:
        raise UserError(f"{shown} is {_OTHER_KINDS[first]} on the hub; expected a model, {FORM}")
    # The long form, which huggingface_hub also accepts.
    return inner if first == "models" and inner.count("/") else rest


def refuse_runs(path: str | Path) -> None:
    """Raises `UserError` if the path of a run is an address on the hub, because the hub stores only weights."""
    if is_address(path):
        shown = re.sub(r"^hf:/+", "hf://", str(path), flags=re.IGNORECASE)[:_LONGEST]
        raise UserError(f"{shown} is on the Hugging Face Hub, which stores weights, not runs; expected a workdir")
