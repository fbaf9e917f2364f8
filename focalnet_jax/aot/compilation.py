"""Compiles a step for a mesh of absent devices, and searches for the largest batch that fits in their memory."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import FrozenConfigDict

from focalnet_jax.aot import MAX_BATCH_PER_DEVICE, bundles
from focalnet_jax.aot.ledger import cycles_by_part
from focalnet_jax.aot.program import Program
from focalnet_jax.distributed.chips import Chip
from focalnet_jax.distributed.mesh import check_batch_size, split_by_example
from focalnet_jax.errors import UserError
from focalnet_jax.settings import MAIN
from focalnet_jax.tasks import task_kind
from focalnet_jax.training.resolve import resolve
from focalnet_jax.training.spec import make_spec
from focalnet_jax.training.state import abstract_state, abstract_variables
from focalnet_jax.training.step import make_eval_step, make_train_step

_WARM_UP, _STEPS = 100, 1000  # steps of the schedule, which do not affect the cost
_MOST_TURNS = 8  # largest number of batch sizes that a search tries
# Without a GPU, XLA cannot time the tile sizes of its Triton matrix products. Its default sizes do not fit for some
# products, such as those with the logits of 150 classes, so the compilation fails. With this option, products call
# NVIDIA's library, which XLA also tries in a run.
_OPTIONS = {"gpu": {"xla_gpu_enable_triton_gemm": False}}
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


class DoesNotFitError(UserError):
    """Raised if a program needs more memory than the device has.

    Attributes:
      requested: bytes that the program requested, or None if the compiler's error does not say.
    """

    def __init__(self, requested: int | None):
        needed = f": it requests {requested / 1e9:.1f} GB" if requested else ""
        super().__init__(
            f"the program does not fit in the device's memory{needed}; give fewer or smaller images, or a smaller model"
        )
        self.requested = requested


@dataclass(frozen=True)
class Attempt:
    """Result of one compilation."""

    step: str  # train or eval
    batch: int  # global batch size
    remat: str
    fits: bool
    memory: int | None  # bytes per device, or None if the compiler does not say
    cycles: int | None  # per device and step, or None without an estimate by the compiler
    sent: Mapping[str, int] | None  # bytes that a device sends per step, by kind of collective; None if it does not fit
    seconds: float  # time of the compilation
    parts: Mapping[str, int] = field(default_factory=dict)  # cycles of each part, see `ledger.cycles_by_part`


def compile_step(config: FrozenConfigDict, mesh: Mesh, chip: Chip, step: str) -> Attempt:
    """Compiles the `train` or `eval` step of a run of `config`, including shardings and donation, and returns its cost.

    If the step does not fit in memory, no error is raised; the result has `fits=False`.

    Raises:
      UserError: the batch cannot be divided evenly over the devices and micro-batches.
    """
    config = resolve(config, mesh)
    key = _batch_key(config, step)
    batch, remat = config[key], config.remat
    check_batch_size(key, batch, mesh, config.accumulate_steps if step == "train" else 1)
    print(f"compiling the {step} step of {config.model.name}, batch {batch}, remat {remat} ...", flush=True)
    lowered = lower_step(config, mesh, step)
    bundles.forget()
    begun = time.perf_counter()
    try:
        compiled = compile_fitting(lowered, _OPTIONS.get(mesh.devices.flat[0].platform))
    except DoesNotFitError as error:
        return _report(Attempt(step, batch, remat, False, error.requested, None, None, time.perf_counter() - begun))
    seconds = time.perf_counter() - begun
    needed = compiled.memory_analysis()
    memory = (
        needed.argument_size_in_bytes
        + needed.output_size_in_bytes
        - needed.alias_size_in_bytes
        + needed.temp_size_in_bytes
        + needed.generated_code_size_in_bytes
    )
    program = Program(compiled.as_text())
    cycles, sent = program.cycles(bundles.kernel_cycles), program.collective_bytes()
    parts = cycles_by_part(program, bundles.kernel_cycles)
    return _report(Attempt(step, batch, remat, memory <= chip.memory, memory, cycles, sent, seconds, parts))


def search(config: FrozenConfigDict, mesh: Mesh, chip: Chip, step: str) -> tuple[Attempt, dict[str, Any]]:
    """Searches for the cheapest remat policy with which the config's batch fits, and for the largest batch that fits.

    Returns:
      The compilation of the config's batch with that policy, or with the policy that saves the most memory if no policy
      fits; and a dict with `suggested_remat`, which is None if the config's batch does not fit, and `largest_batch` and
      `largest_batch_remat`, which are None if no batch fits. `largest_batch` is a global batch size. The search tries
      at most 8 sizes of up to 4096 examples per device, and ends within an eighth of a size that does not fit.

    Raises:
      UserError: the batch cannot be divided evenly over the devices and micro-batches.
    """
    # "auto" is the cheapest. If it means "none", the other policies use less memory; if it means "full", none does.
    for remat in ("auto", "dots", "full") if step == "train" else [config.remat]:
        cheapest = compile_step(_with(config, remat=remat), mesh, chip, step)
        if cheapest.fits:
            break
    saving = "full" if step == "train" else config.remat
    largest, above = (cheapest, None) if cheapest.fits else (None, cheapest.batch)
    for _ in range(_MOST_TURNS):
        batch = _next_batch(largest, above, chip.memory, lambda size: _is_valid(size, config, mesh, step))
        if batch is None or batch > MAX_BATCH_PER_DEVICE * mesh.shape["data"] * mesh.shape["fsdp"]:
            break
        attempt = compile_step(_with(config, **{"remat": saving, _batch_key(config, step): batch}), mesh, chip, step)
        largest, above = (attempt, above) if attempt.fits else (largest, batch)
    return cheapest, {
        "suggested_remat": cheapest.remat if cheapest.fits else None,
        "largest_batch": largest.batch if largest else None,
        "largest_batch_remat": largest.remat if largest else None,
    }


def _is_valid(batch: int, config: FrozenConfigDict, mesh: Mesh, step: str) -> bool:
    """Returns whether devices and micro-batches can split a batch evenly and, in training, the task allows it."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if step == "eval":
        return batch % parts == 0
    if batch % (parts * config.accumulate_steps):
        return False
    try:
        task_kind(config.task).make_task(_with(config, batch_size=batch), evaluated=False)
    except UserError:
        return False
    return True


def _next_batch(largest: Attempt | None, above: int | None, room: int, is_valid: Callable[[int], bool]) -> int | None:
    """Returns the next batch size to try, or None if the search is finished.

    The search is finished when the largest batch that fits is within an eighth of the smallest batch that does not, or
    no batch size between them is valid.

    Args:
      largest: compilation of the largest batch that fits, or None if no batch fits yet.
      above: smallest batch size that does not fit, or None if all fit so far.
      room: memory of a device, in bytes.
      is_valid: function that returns whether a batch size is possible.
    """
    fits = largest.batch if largest else 0
    if above is None:
        # Part of the memory does not depend on the batch, so the batch can grow at least by the ratio of memory.
        times = room // largest.memory if largest.memory else 2
        return fits * min(max(2, times), 16)  # a multiple of a valid batch is valid
    if above - fits <= fits // 8:
        return None
    middle = (fits + above) // 2
    tries = [*range(middle, fits, -1), *range(middle + 1, above)]
    return next((batch for batch in tries if is_valid(batch)), None)


def _batch_key(config: FrozenConfigDict, step: str) -> str:
    return "eval_batch_size" if step == "eval" and config.eval_batch_size is not None else "batch_size"


def _with(config: FrozenConfigDict, **changed: Any) -> FrozenConfigDict:
    return FrozenConfigDict(config.to_dict() | changed)


def lower_step(config: FrozenConfigDict, mesh: Mesh, step: str) -> jax.stages.Lowered:
    """Returns the `train` or `eval` step of a run of `config`, lowered for the devices of `mesh`."""
    task = task_kind(config.task).make_task(config, evaluated=False)
    sharding = split_by_example(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=sharding)
        for name, spec in task.batch_spec(config[_batch_key(config, step)], evaluated=step == "eval").items()
    }
    spec, init = make_spec(config, mesh, task, warmup_steps=_WARM_UP, total_steps=_STEPS)
    platform = "cuda" if mesh.devices.flat[0].platform == "gpu" else mesh.devices.flat[0].platform
    if step == "eval":
        size = len(next(iter(batch.values())))
        batch["mask"] = jax.ShapeDtypeStruct((size,), jnp.float32, sharding=sharding)
        eval_step = make_eval_step(spec.graph, mesh, task.evaluations()[MAIN])
        traced = eval_step.trace(abstract_variables(init, mesh), batch)
    else:
        traced = make_train_step(spec).trace(abstract_state(spec, init), batch)
    return traced.lower(lowering_platforms=(platform,))


def compile_fitting(lowered: jax.stages.Lowered, options: Mapping[str, bool] | None = None) -> jax.stages.Compiled:
    """Returns the compiled program.

    Args:
      lowered: the lowered program.
      options: options of the compiler in addition to those of the program.

    Raises:
      DoesNotFitError: the program does not fit in the device's memory.
    """
    try:
        return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        # A kernel that does not fit in fast memory is a bug of this package; a smaller batch does not help.
        if "RESOURCE_EXHAUSTED" not in str(error) or re.search("memory space [vs]mem", str(error)):
            raise
        raise DoesNotFitError(_requested(str(error))) from error


def _requested(error: str) -> int | None:
    """Returns the bytes that a program requested, from the compiler's error, or None if the error does not say."""
    found = re.search(r"(?:Used |temporaries \()([\d.]+)([KMG])", error)
    return round(float(found[1]) * _UNITS[found[2]]) if found else None


def _report(attempt: Attempt) -> Attempt:
    memory = "?" if attempt.memory is None else f"{attempt.memory / 2**30:.2f} GiB"
    print(f"  {'fits' if attempt.fits else 'does not fit'}: {memory} per device ({attempt.seconds:.0f} s)", flush=True)
    return attempt
