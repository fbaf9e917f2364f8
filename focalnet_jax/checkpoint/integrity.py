"""Integrity of checkpoints: a manifest of all files with their SHA-256, written last.

Orbax detects neither a flipped bit nor a partly deleted step, and on file systems without atomic renames a step may be
visible before it is complete. A step without a manifest, or with files that differ from it, is not a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from focalnet_jax.errors import UserError
from focalnet_jax.storage.address import AnyPath, is_bucket
from focalnet_jax.storage.failures import StorageError, unreadable
from focalnet_jax.storage.files import digest, read_text, sizes, sizes_of, write_whole

MANIFEST = "manifest.json"
_THREADS = 8  # number of threads that read and hash files; hashing releases the GIL


class DamagedError(ValueError):
    """Raised for a damaged step; the message describes the damage."""


@dataclass(frozen=True)
class Manifest:
    """The content of a step's manifest.

    Attributes:
      files: size in bytes and SHA-256 of each file, by relative path.
      evaluation: metrics of the step, or None if the step was not evaluated; a metric that was not finite is None.
      step: number of the step, or None for exported weights.
    """

    files: Mapping[str, tuple[int, str]]
    evaluation: Mapping[str, float | None] | None
    step: int | None


def is_step(directory: AnyPath) -> bool:
    """Returns whether the name of a directory is a step number."""
    name = directory.name
    return name.isascii() and name.isdecimal() and str(int(name)) == name


def seal(step: AnyPath, evaluation: Mapping[str, Any] | None = None) -> None:
    """Writes the manifest of a step, which makes the step a checkpoint."""
    written = {name: size for name, size in sorted(sizes(step).items()) if name != MANIFEST}
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = list(pool.map(lambda name: digest(step / name), written))
    entries = zip(written.items(), digests, strict=True)
    _write(step, {name: [size, sha256] for (name, size), sha256 in entries}, evaluation)


def record_evaluation(step: AnyPath, evaluation: Mapping[str, Any]) -> None:
    """Adds the metrics of an evaluation to the manifest of a step."""
    files = read_manifest(step).files
    _write(step, {name: list(entry) for name, entry in files.items()}, evaluation)


def read_manifest(step: AnyPath) -> Manifest:
    """Returns the manifest of a step.

    Raises:
      DamagedError: the manifest is missing or changed.
      UserError: there is no permission to read the manifest.
      RunFailedError: the bucket does not answer.
    """
    try:
        try:
            return _parsed(read_text(step / MANIFEST))
        except (ValueError, TypeError, KeyError, AttributeError):
            if not is_bucket(step):
                raise
            return _parsed(read_text(step / MANIFEST))  # the network may have changed it
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DamagedError(f"it has no {MANIFEST}") from error
    except StorageError as error:  # an unreachable bucket does not count as damage
        raise unreadable(step / MANIFEST, error) from error
    except PermissionError as error:
        raise UserError(f"cannot read {step / MANIFEST}: {error.strerror}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{MANIFEST} has changed since it was written") from error


def _parsed(written: str) -> Manifest:
    body = json.loads(written)["of"]
    if written != _sealed(body):
        raise ValueError
    files = {name: (size, digest) for name, (size, digest) in body["files"].items()}
    return Manifest(files, body["evaluation"], body.get("step"))


def find_missing(step: AnyPath) -> list[str]:
    """Returns the problems of a step that can be found without reading its files.

    These are a bad manifest, missing files, wrong sizes, and a wrong step number.
    """
    return _inspect(step)[0]


def find_damage(step: AnyPath, part: int = 0, parts: int = 1) -> list[str]:
    """Returns the problems of a step, found by reading its files. The list is empty if the step is undamaged.

    Args:
      step: directory of the step.
      part: index of the part of the files to read, if several processes share the work.
      parts: number of parts, which have about the same size.
    """
    missing, files = _inspect(step)
    if missing:
        return missing
    share = sorted(files, key=lambda name: (-files[name][0], name))[part::parts]

    def damage(name: str) -> str | None:
        try:
            attempts = 2 if is_bucket(step) else 1  # the network may have changed what was read
            same = any(digest(step / name) == files[name][1] for _ in range(attempts))
            return None if same else f"{name} has changed since it was written"
        except StorageError as error:
            raise unreadable(step / name, error) from error
        except FileNotFoundError:  # deleted since it was listed
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"

    with ThreadPoolExecutor(_THREADS) as pool:
        return [text for text in pool.map(damage, share) if text]


def _inspect(step: AnyPath) -> tuple[list[str], Mapping[str, tuple[int, str]]]:
    """Returns the problems that `find_missing` finds, and the files in the manifest."""
    try:
        manifest = read_manifest(step)
    except DamagedError as error:
        return [str(error)], {}
    if is_step(step) and manifest.step not in (None, int(step.name)):
        return [f"its files belong to step {manifest.step}"], {}
    found = _sizes(step, manifest.files)
    return [
        damage for name, (size, _) in manifest.files.items() if (damage := _misses(found, name, size))
    ], manifest.files


def _sizes(step: AnyPath, names: Iterable[str]) -> dict[str, int]:
    try:
        return sizes_of(step, names)
    except StorageError as error:
        raise unreadable(step, error) from error


def _misses(found: Mapping[str, int], name: str, size: int) -> str | None:
    if name not in found:
        return f"{name} is missing"
    return None if found[name] == size else f"{name} has {found[name]} bytes of {size}"


def _sealed(body: Mapping[str, Any]) -> str:
    """Returns the text of the manifest, with a checksum over its content, so that any change is detected."""
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({"sha256": digest, "of": body}, indent=1, sort_keys=True) + "\n"


def _write(step: AnyPath, files: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> None:
    if evaluation is not None:
        evaluation = {name: value if math.isfinite(value) else None for name, value in evaluation.items()}
    body = {"files": files, "evaluation": evaluation, "step": int(step.name) if is_step(step) else None}
    write_whole(step / MANIFEST, _sealed(body))
