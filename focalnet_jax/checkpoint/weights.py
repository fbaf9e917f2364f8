"""Writes parameters for sharing, and reads the parameters of a step for evaluation, conversion or finetuning.

If a step has averaged parameters (EMA), the averaged parameters are read.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from focalnet_jax.checkpoint.integrity import DamagedError, find_damage, read_manifest, seal
from focalnet_jax.checkpoint.steps import check_path, check_whole
from focalnet_jax.errors import LEFT_BEHIND, RunFailedError, UserError
from focalnet_jax.parameters import named_leaves
from focalnet_jax.storage.address import AnyPath, absolute, is_bucket
from focalnet_jax.storage.failures import storage_error, unreadable

Tree = Any

_Result = TypeVar("_Result")

# Time for reading a checkpoint in a bucket. TensorStore would repeat failed requests for half an hour.
PATIENCE_SECONDS = 300.0
_SLOWEST = 1e6  # bytes per second; the time limit is extended by the size divided by this


# Items of a checkpoint with averages (EMA), and the items whose averages they are.
AVERAGES = {"ema": "params", "ema_statistics": "statistics"}


class UnfitError(UserError):
    """Raised if the arrays of a checkpoint differ from those of the model in name, shape or dtype."""


def weights_item(checkpoint: AnyPath) -> str:
    """Returns the name of the item with the weights: "ema" if the step has an average, else "params"."""
    return "ema" if has_item(checkpoint, "ema") else "params"


def has_item(checkpoint: AnyPath, item: str) -> bool:
    """Returns whether a step has an item, such as "ema"."""
    if not is_bucket(checkpoint):
        return (checkpoint / item).is_dir()
    try:  # a failed request would look like a missing folder
        return any(name.startswith(f"{item}/") for name in read_manifest(checkpoint).files)
    except DamagedError:
        return False


def save_params(folder: Path, params: Tree, metadata: dict[str, Any], statistics: Tree | None = None) -> None:
    """Writes a step without the state of the training to `folder`, for loading or finetuning, not for resuming.

    The items are `params`, and `statistics` unless it is None or empty.

    Raises:
      UserError: Orbax cannot write to a folder of this name.
      OSError: the files cannot be written.
    """
    check_path(folder)
    items = {"params": params} | ({"statistics": statistics} if statistics else {})
    (folder / "metadata").mkdir(parents=True)
    (folder / "metadata" / "metadata").write_text(json.dumps(metadata))
    try:
        with quiet(), ocp.StandardCheckpointer() as checkpointer:
            for name, tree in items.items():
                checkpointer.save(folder.absolute() / name, tree)
    except (ValueError, RuntimeError) as error:  # how tensorstore reports a full disk
        raise OSError(reason(error)) from error
    check_whole(folder, list(items))
    seal(folder)


def read_params(checkpoint: AnyPath, like: Tree) -> Tree:
    """Returns the parameters of a step as NumPy arrays with the structure of `like`.

    Raises the errors of `load_params`.
    """
    item = weights_item(checkpoint)
    _check_unchanged(checkpoint)
    check_fits(checkpoint, item, like)
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    return _restored(checkpoint, item, ocp.args.PyTreeRestore(item=like, restore_args=as_numpy))


def read_arrays(checkpoint: AnyPath, item: str) -> dict[str, np.ndarray]:
    """Returns all arrays of an item of a step by name, for any model.

    Raises:
      RunFailedError: the step is damaged.
    """
    _check_unchanged(checkpoint)
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), _stored(checkpoint, item))
    return named_leaves(_restored(checkpoint, item, ocp.args.PyTreeRestore(restore_args=as_numpy)))


def load_params(checkpoint: AnyPath, like: Tree, *, head: str = "keep") -> Tree:
    """Returns the parameters of a step, with the structure, dtypes and shardings of `like`.

    Args:
      checkpoint: directory of the step, see `find_checkpoint`.
      like: parameters of the target model, as arrays or shapes.
      head: treatment of the classifier: "keep" reads it from the checkpoint, "drop" leaves it out of the result.

    Raises:
      UserError: the parameters differ in name, shape or dtype; the message names the parameters that differ.
      RunFailedError: the step is damaged.
    """
    return _load_item(checkpoint, weights_item(checkpoint), like, head)


def load_statistics(checkpoint: AnyPath, like: Tree, *, head: str = "keep") -> Tree:
    """Returns the variables of a step that are not parameters, such as the running statistics of BatchNorm.

    If the step has averages (EMA), the averaged variables are returned. Arguments and errors are the same as for
    `load_params`.
    """
    item = "ema_statistics" if weights_item(checkpoint) == "ema" else "statistics"
    return _load_item(checkpoint, item, like, head)


def _load_item(checkpoint: AnyPath, item: str, like: Tree, head: str) -> Tree:
    wanted = {name: value for name, value in like.items() if head == "keep" or name != "head"}
    if not wanted:
        return {}
    _check_unchanged(checkpoint)
    check_fits(checkpoint, item, wanted, ignored="head/" if head == "drop" else None)
    arguments = ocp.args.PyTreeRestore(
        item=wanted,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract(wanted)),
        partial_restore=head == "drop",
    )
    return _restored(checkpoint, item, arguments)


def load_items(checkpoint: AnyPath, like: dict[str, Tree]) -> dict[str, Tree]:
    """Returns items of a step by name, with the structure, dtypes and shardings of `like`.

    Raises the errors of `load_params`.
    """
    _check_unchanged(checkpoint)
    for name, tree in like.items():
        check_fits(checkpoint, name, tree)
    with reading(checkpoint), ocp.StandardCheckpointer() as checkpointer:
        return {
            name: in_time(checkpoint, partial(checkpointer.restore, checkpoint / name, abstract(tree)))
            for name, tree in like.items()
        }


def check_fits(checkpoint: AnyPath, item: str, wanted: Tree, ignored: str | None = None) -> None:
    """Checks that an item of a step has the same names, shapes and dtypes as the arrays of the model.

    Args:
      checkpoint: directory of the step.
      item: name of the item.
      wanted: arrays of the model, or their shapes.
      ignored: stored names with this prefix are not compared.

    Raises:
      UnfitError: names, shapes or dtypes differ; the message names the arrays.
    """
    stored = named_leaves(_stored(checkpoint, item))
    found = {
        name: f"{tuple(leaf.shape)} {leaf.dtype}"
        for name, leaf in stored.items()
        if ignored is None or not name.startswith(ignored)
    }
    needed = {name: f"{leaf.shape} {leaf.dtype}" for name, leaf in named_leaves(wanted).items()}
    differing = [
        f"{name} is {found.get(name, 'missing')} in the checkpoint and {needed.get(name, 'missing')} in the model"
        for name in sorted(found.keys() | needed.keys())
        if found.get(name) != needed.get(name)
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        advice = ""
        if all(text.startswith("head/") for text in differing):
            advice = (
                "; only the head differs: give the config that the checkpoint was trained with, or train from it with "
                "init_head=drop, or with init_head=remap from ImageNet-22K to ImageNet-1K"
            )
        raise UnfitError(f"{checkpoint} does not fit the model: {'; '.join(differing[:3])}{more}{advice}")


def _stored(checkpoint: AnyPath, item: str) -> Tree:
    """Returns shapes and dtypes of the arrays of an item."""
    # `Checkpointer.metadata` would return None if the handler raises an error.
    with reading(checkpoint), closing(ocp.PyTreeCheckpointHandler()) as handler:
        return in_time(checkpoint, lambda: handler.metadata(absolute(checkpoint) / item)).tree


def _restored(checkpoint: AnyPath, item: str, arguments: ocp.args.PyTreeRestore) -> Tree:
    with reading(checkpoint), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return in_time(checkpoint, lambda: checkpointer.restore(absolute(checkpoint) / item, args=arguments))


def in_time(checkpoint: AnyPath, read: Callable[[], _Result]) -> _Result:
    """Returns the result of `read`, which has a time limit if the checkpoint is in a bucket.

    Raises:
      RunFailedError: reading from a bucket takes longer than `PATIENCE_SECONDS` plus 1 s per MB of the checkpoint.
    """
    if not is_bucket(checkpoint):
        return read()
    limit = PATIENCE_SECONDS + sum(size for size, _ in read_manifest(checkpoint).files.values()) / _SLOWEST
    result: list[_Result] = []
    failure: list[Exception] = []

    def read_it() -> None:
        try:
            result.append(read())
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=read_it, name="checkpoint", daemon=True)
    thread.start()
    thread.join(limit)
    if failure:
        raise failure[0]
    if not result:
        LEFT_BEHIND.append(f"reading {checkpoint}")
        raise unreadable(checkpoint, storage_error(TimeoutError(f"{limit:.0f} s"), checkpoint))
    return result[0]


def _check_unchanged(checkpoint: AnyPath) -> None:
    if damage := find_damage(checkpoint):
        raise RunFailedError(f"checkpoint {checkpoint} is damaged ({damage[0]}): choose another step")


@contextmanager
def reading(checkpoint: AnyPath) -> Iterator[None]:
    """Context manager that converts errors of reading a checkpoint.

    Raises:
      UserError: there is no permission to read the checkpoint.
      RunFailedError: a checkpoint on a disk is damaged, or a checkpoint in a bucket cannot be read. The latter does not
        count as damaged, because its digests have just been verified.
    """
    try:
        with quiet():
            yield
    except (UserError, RunFailedError):
        raise
    except PermissionError as error:
        raise UserError(f"cannot read checkpoint {checkpoint}: {error.strerror}") from error
    except Exception as error:
        if is_bucket(checkpoint):  # aiohttp, google.auth, gcsfs and TensorStore have no type in common
            raise unreadable(checkpoint, storage_error(error, checkpoint)) from error
        if not isinstance(error, ValueError | KeyError | OSError | RuntimeError | AttributeError):
            raise
        raise RunFailedError(f"checkpoint {checkpoint} is damaged ({reason(error)}): choose another step") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Context manager that silences Orbax's warnings, and tensorstore's messages after an error.

    tensorstore's threads may print until the process ends. `run_command` silences them for the whole command.
    """
    hooks = sys.unraisablehook, threading.excepthook
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    sys.unraisablehook = threading.excepthook = lambda *_: None
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        sys.unraisablehook, threading.excepthook = hooks
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def reason(error: Exception) -> str:
    """Returns the first line of an error message.

    A long line is cut in the middle, because the cause may be at either end.
    """
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 200 else f"{line[:100]} ... {line[-100:]}"


def abstract(tree: Tree) -> Tree:
    """Returns shapes, dtypes and shardings of arrays, in the types that Orbax expects."""
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
