"""The durations of a run in steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ml_collections import FrozenConfigDict

from focalnet_jax.config import duration
from focalnet_jax.data.order import Groups, steps_per_epoch
from focalnet_jax.errors import UserError


@dataclass(frozen=True)
class Plan:
    """Durations of a run in steps. The run makes the steps `first` + 1 to `total`."""

    steps_per_epoch: int
    total: int
    warmup: int
    evaluate_every: int
    save_every: int | None  # None: save at every evaluation
    first: int = 0  # step of the checkpoint that continue_from names
    every: Mapping[str, int] = field(default_factory=dict)  # steps between additional evaluations, by name


def make_plan(config: FrozenConfigDict, train_examples: int, groups: Groups | None = None) -> Plan:
    """Returns every duration of a config in steps. For `groups`, see `Task.groups`.

    Raises:
      UserError: a duration is missing, given twice or out of range.
    """
    epoch = steps_per_epoch(train_examples, config.batch_size, groups)
    total = duration(config, "total", epoch)
    if total is None:
        raise UserError("total_epochs and total_steps are both unset; set one of them")
    first = first_step(config)
    main = duration(config, "eval_every", epoch, default=first + total)
    others = {name: duration(config, f"evaluations.{name}.every", epoch, default=main) for name in config.evaluations}
    if first + total >= 2**31:
        earlier = f" after the {first} steps of continue_from" if first else ""
        raise UserError(
            f"{total} steps{earlier} are too many; expected fewer than 2**31 in total: decrease total_steps or "
            "total_epochs"
        )
    return Plan(
        epoch,
        first + total,
        duration(config, "schedule.warmup", epoch, default=0),
        main,
        duration(config, "checkpoint_every", epoch),
        first,
        others,
    )


def first_step(config: FrozenConfigDict) -> int:
    """Returns the step in the name of the checkpoint `continue_from`, or 0 if this key is not set."""
    return int(Path(config.continue_from).name) if config.continue_from else 0
