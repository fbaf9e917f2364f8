"""List, verify, compare or delete the checkpoints of a run.

  list DIR            lists the steps, their sizes and evaluations, and marks the best
  verify DIR          reads every file and compares its SHA-256; exit code 1 if any differs
  diff DIR STEP STEP  compares two steps: config, versions, parameters
  prune DIR           verifies the newest and the best step, and deletes all others

DIR is a workdir or its checkpoints folder. For verify, it may also be a single checkpoint or exported weights. The
commands do not disturb a run that is writing to DIR. prune fails during such a run.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import math
import time
from typing import Any

from focalnet_jax.checkpoint.integrity import MANIFEST, DamagedError, find_damage, find_missing, read_manifest
from focalnet_jax.checkpoint.lock import LOCK, held, is_held
from focalnet_jax.checkpoint.steps import FOLDER, delete, kept, list_steps, metric_of, ranking_metric_of, read_metadata
from focalnet_jax.errors import EXIT_FAILED, RunFailedError, UserError
from focalnet_jax.hub.address import refuse_runs
from focalnet_jax.programs.flags import make_parser
from focalnet_jax.programs.run_command import run_command
from focalnet_jax.storage.address import AnyPath, absolute, resolved, to_path
from focalnet_jax.storage.failures import StorageError
from focalnet_jax.storage.files import answering, changed_at, check_bucket, exists, is_file, is_folder

_DELETED = "deleted meanwhile"


def main(arguments: list[str]) -> int:
    """Parses the flags and runs the subcommand."""
    parser = make_parser("checkpoint", __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{list,verify,diff,prune}")
    for name, does in (("list", _list), ("verify", _verify), ("diff", _diff), ("prune", _prune)):
        command = commands.add_parser(name, allow_abbrev=False)
        command.error = parser.error
        command.set_defaults(does=does)
        command.add_argument("directory", metavar="DIR", help="a workdir or its folder checkpoints")
        if name == "verify":
            command.add_argument("--step", type=int, metavar="STEP", help="verify only this step")
        if name == "diff":
            command.add_argument("steps", type=int, nargs=2, metavar="STEP", help="two steps to compare")
        if name == "prune":
            command.add_argument(
                "--keep-latest", type=int, default=1, metavar="N", help="number of newest steps to keep (default: 1)"
            )
            command.add_argument(
                "--keep-best", type=int, default=1, metavar="N", help="number of best steps to keep (default: 1)"
            )
            command.add_argument(
                "--dry-run", action="store_true", help="print the steps to delete, without deleting them"
            )
    flags = parser.parse_args(arguments)
    refuse_runs(flags.directory)
    given = to_path(flags.directory)
    with answering(given):
        return flags.does(given, flags)


def _folder(given: AnyPath) -> AnyPath:
    """Returns the resolved folder that contains the steps."""
    for folder in (given / FOLDER, given):
        if list_steps(folder):
            return resolved(folder)
    check_bucket(given)
    raise UserError(f"{given} has no checkpoints; expected a workdir or its folder {FOLDER}")


def _workdirs(given: AnyPath) -> list[AnyPath]:
    """Returns the folders that may contain the lock file of a run that is writing.

    There can be two, because the checkpoints folder of a workdir may be a link.
    """
    folder = _folder(given)
    found = [resolved(given), folder.parent] if is_folder(given / FOLDER) else [folder.parent, absolute(given).parent]
    return [workdir for workdir in dict.fromkeys(found) if workdir == found[0] or exists(workdir / LOCK)]


def _step(folder: AnyPath, step: int) -> AnyPath:
    if not is_folder(folder / str(step)):
        raise UserError(f"{folder} has no step {step}; expected one of {', '.join(map(str, list_steps(folder)))}")
    return folder / str(step)


def _list(given: AnyPath, flags: argparse.Namespace) -> int:
    folder = _folder(given)
    best, name = kept(_metrics(folder), 0, 1), _metric(folder)
    width = max(len(name), 9)
    print(f"{'step':>9}  {'written':<19}  {'MB':>9}  {name:>{width}}")
    for number in list_steps(folder):
        step = folder / str(number)
        if missing := find_missing(step):
            print(f"{number:>9}  {_status(step, given) or f'not a checkpoint: {missing[0]}'}")
            continue
        try:
            size = sum(size for size, _ in read_manifest(step).files.values())
            metric, changed = metric_of(step, name), changed_at(step / "metadata" / "metadata")
        except StorageError:
            raise
        except (DamagedError, OSError):
            print(f"{number:>9}  {_DELETED}")
            continue
        value = f"{metric:{width}.3f}" if math.isfinite(metric) else " " * width
        written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(changed))
        print(f"{number:>9}  {written}  {size / 1e6:9.1f}  {value}{'  best' if number in best else ''}")
    return 0


def _metrics(folder: AnyPath) -> dict[int, float]:
    name = _metric(folder)
    whole = [step for step in list_steps(folder) if not find_missing(folder / str(step))]
    return {step: metric_of(folder / str(step), name) for step in whole}


def _metric(folder: AnyPath) -> str:
    """Returns the name of the metric that ranks the steps in a folder."""
    whole = [folder / str(step) for step in list_steps(folder) if not find_missing(folder / str(step))]
    return ranking_metric_of(whole[-1] if whole else folder)


def _verify(given: AnyPath, flags: argparse.Namespace) -> int:
    if flags.step is None and (is_file(given / MANIFEST) or is_folder(given / "params")):
        folder, names = absolute(given).parent, [absolute(given).name]
    else:
        folder = _folder(given)
        names = list_steps(folder) if flags.step is None else [_step(folder, flags.step).name]
    bad = 0
    for name in names:
        step, begun = folder / str(name), time.perf_counter()
        damage = find_damage(step)
        if damage and (transient := _status(step, given)):
            print(f"{name:>9}  {transient}", flush=True)
        elif damage:
            bad += 1
            more = f" and {len(damage) - 1} more" if len(damage) > 1 else ""
            print(f"{name:>9}  damaged: {damage[0]}{more}", flush=True)
        else:
            seconds = time.perf_counter() - begun
            try:
                files = read_manifest(step).files
            except DamagedError:
                print(f"{name:>9}  {_DELETED}", flush=True)
                continue
            size = sum(size for size, _ in files.values())
            speed = f"{len(files)} files, {size / 1e6:.1f} MB, {size / seconds / 1e9:.2f} GB/s"
            print(f"{name:>9}  good: {speed}", flush=True)
    return EXIT_FAILED if bad else 0


def _status(step: AnyPath, given: AnyPath) -> str | None:
    """Returns the state of an incomplete step that a run has deleted or is writing, or None for other steps."""
    if not exists(step):
        return _DELETED
    if not exists(step / MANIFEST) and absolute(given) != step and any(map(is_held, _workdirs(given))):
        return "being written"
    return None


def _diff(given: AnyPath, flags: argparse.Namespace) -> int:
    import numpy as np

    from focalnet_jax.checkpoint.weights import read_arrays, weights_item

    folder = _folder(given)
    one, other = (_step(folder, step) for step in flags.steps)
    for step in (one, other):
        if damage := find_damage(step):
            raise RunFailedError(f"{step} is damaged: {damage[0]}")
    for name, (a, b) in _differing(_flat(read_metadata(one)), _flat(read_metadata(other))).items():
        print(f"{name}: {a} | {b}")
    a, b = (read_arrays(step, weights_item(step)) for step in (one, other))
    for name in sorted(a.keys() ^ b.keys()):
        print(f"{name}: only in {(one if name in a else other).name}")
    width = max(map(len, a), default=0)
    print(f"{'parameter':<{width}}  shape, largest difference, norm of the difference over the norm in {one.name}")
    same = 0
    for name in sorted(a.keys() & b.keys()):
        if a[name].shape != b[name].shape:
            print(f"{name:<{width}}  {a[name].shape} | {b[name].shape}")
        elif np.array_equal(a[name], b[name], equal_nan=True):
            same += 1
        else:
            change = b[name].astype(np.float64) - a[name]
            size = np.linalg.norm(a[name].astype(np.float64))
            relative = f"{np.linalg.norm(change) / size:.3g}" if size else "-"
            print(f"{name:<{width}}  {a[name].shape}, {np.abs(change).max():.3g}, {relative}")
    print(f"{same} of {len(a.keys() & b.keys())} parameters are bitwise equal")
    return 0


def _flat(metadata: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in metadata.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
        flat |= inner
    return flat


def _differing(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    return {name: (a.get(name, "not set"), b.get(name, "not set")) for name in names}


def _prune(given: AnyPath, flags: argparse.Namespace) -> int:
    if flags.keep_latest < 1 or flags.keep_best < 0:
        raise UserError(
            f"--keep-latest {flags.keep_latest} --keep-best {flags.keep_best}: expected --keep-latest of at least 1, "
            "and --keep-best of at least 0"
        )
    folder = _folder(given)
    with contextlib.ExitStack() as locks:
        for workdir in _workdirs(given) if not flags.dry_run else ():
            locks.enter_context(held(workdir))
        metrics = _metrics(folder)
        # No other process writes there now, except during a dry run.
        transient = [step for step in list_steps(folder) if flags.dry_run and _status(folder / str(step), given)]
        damaged = [step for step in list_steps(folder) if step not in metrics and step not in transient]
        while bad := [
            step for step in kept(metrics, flags.keep_latest, flags.keep_best) if find_damage(folder / str(step))
        ]:
            damaged += bad  # others are kept instead; the damaged ones are not deleted either
            metrics = {step: metric for step, metric in metrics.items() if step not in damaged}
        gone = sorted(metrics.keys() - kept(metrics, flags.keep_latest, flags.keep_best))
        try:
            delete(folder, () if flags.dry_run else gone)
        except StorageError as error:
            kind = RunFailedError if error.errno == errno.EIO else UserError
            raise kind(f"cannot delete from {folder}: {error.strerror}; start the same command again") from error
        except OSError as error:
            raise UserError(f"cannot delete from {folder}: {error.strerror}; make it writable") from error
    print(f"{'would delete' if flags.dry_run else 'deleted'} {', '.join(map(str, gone)) or 'nothing'}")
    if damaged:
        print(f"damaged, not deleted: {', '.join(map(str, sorted(damaged)))}")
    return EXIT_FAILED if damaged else 0


if __name__ == "__main__":
    run_command(main)
