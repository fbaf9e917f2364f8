"""Profiles a train step on this machine's CPU, float32: python -m benchmarks.step_profile [--model tiny_lrf].

Prints the milliseconds of a step of the ImageNet-1K recipe by part of the model, divided into matrix products, other
C++ kernels, and XLA's operations. The time during which several operations run is divided equally among them. Settings
of the recipe, --config.KEY=VALUE, may follow. The last line is one JSON object.
"""

from __future__ import annotations

import collections
import itertools
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/step_profile.py

from benchmarks.cpu import keep_memory
from benchmarks.flags import check_overrides, images, load_recipe, make_parser, positive
from benchmarks.side_by_side import SETTINGS, our_step
from focalnet_jax.programs.run_command import run_command

KINDS = ("products", "ours", "other")
_PRODUCTS = ("dot", "convolution", "__ynn_fusion", "__onednn")  # names of XLA's operations and libraries


def kind_of(instruction: Any) -> str:
    """Returns the kind of an operation. Sums that XLA's library for products computes do not count as products."""
    if own := re.search(r'custom_call_target="focalnet_[0-9a-f]+_(\w+)"', instruction.rest):
        return "products" if "product" in own[1] else "ours"
    product = any(name in instruction.operation + instruction.rest for name in _PRODUCTS)
    return "products" if product and "reduce" not in instruction.rest else "other"


def shares(events: list[tuple[float, float, str]]) -> Iterator[tuple[str, float]]:
    """Yields names of events (begin, end, name) and their time. Events that overlap get equal shares of the time."""
    changes = sorted({moment for begin, end, _ in events for moment in (begin, end)})
    begins, ends = (collections.defaultdict(list) for _ in range(2))
    for number, (begin, end, _) in enumerate(events):
        begins[begin].append(number)
        ends[end].append(number)
    running: set[int] = set()
    for moment, following in itertools.pairwise(changes):
        running -= set(ends[moment])
        running |= set(begins[moment])
        for number in running:
            yield events[number][2], (following - moment) / len(running)


def traced(folder: Path, names: set[str]) -> list[tuple[float, float, str]]:
    """Returns begin, end (nanoseconds) and name of each operation in a profile."""
    from jax.profiler import ProfileData

    (file,) = folder.rglob("*.xplane.pb")
    lines = (line for plane in ProfileData.from_file(str(file)).planes for line in plane.lines if "XLA" in line.name)
    events = (event for line in lines for event in line.events if event.name in names and event.duration_ns)
    return [(event.start_ns, event.start_ns + event.duration_ns, event.name) for event in events]


def profile(model: str, batch: int, steps: int, overrides: list[str]) -> dict[str, collections.Counter[str]]:
    """Returns the milliseconds of a step by part of the model and kind of operation."""
    import jax

    from benchmarks.tpu_cost import category
    from focalnet_jax.aot.program import Program

    train_step, state, given, _ = our_step(load_recipe(model, [f"--config.batch_size={batch}", *overrides]))
    compiled = train_step.lower(state, given).compile()
    known = {line.name: line for lines in Program(compiled.as_text()).computations.values() for line in lines}
    with tempfile.TemporaryDirectory() as folder:
        for watched in (False, False, True):  # the first steps are slower, because they request memory
            if watched:
                jax.profiler.start_trace(folder)
            for _ in range(steps):
                state, metrics = compiled(state, given)
            jax.block_until_ready(metrics)
        jax.profiler.stop_trace()
        events = traced(Path(folder), known.keys() - {"while", "call"})
    parts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for name, took in shares(events):
        parts[category(known[name])][kind_of(known[name])] += took / 1e6 / steps
    return parts


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="tiny_lrf")
    parser.add_argument("--batch", type=images, default=8)
    parser.add_argument("--steps", type=positive, default=4)
    flags, overrides = parser.parse_known_args(arguments)
    check_overrides(overrides, precision="a CPU's step is float32", **SETTINGS)
    overrides = ["--config.precision=float32", *overrides]
    load_recipe(flags.model, overrides)  # reports mistakes before the program restarts
    os.environ["JAX_PLATFORMS"] = "cpu"
    keep_memory()
    parts = profile(flags.model, flags.batch, flags.steps, overrides)
    print(f"{'milliseconds':<14}" + "".join(f"{name:>10}" for name in KINDS))
    parts = dict(sorted(parts.items(), key=lambda item: -item[1].total()))
    parts["all"] = sum(parts.values(), collections.Counter())
    for name, by_kind in parts.items():
        print(f"{name:<14}" + "".join(f"{by_kind[kind]:>10.1f}" for kind in KINDS))
    print(f"{parts['all'].total():.0f} ms in all")
    print(json.dumps({name: {kind: round(took, 2) for kind, took in each.items()} for name, each in parts.items()}))


if __name__ == "__main__":
    run_command(main)
